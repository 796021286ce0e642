"""Tunes whose bars add up: a character model of jigs in ABC notation, and a regular expression of what a jig is.

    python examples/tunes.py                              # makes its tunes, trains for some seconds, composes
    python examples/tunes.py --text jigs.abc --epochs 20  # learns from the jigs of a file in ABC

A jig has bars of six eighths. A small model often writes bars of five or seven; under the expression each has six, the
tune has eight of them, and then ends. Of several tunes, written at the same time, those that the expression has bent
much are replaced by copies of others while they are written (`resample`). Needs what `charloom[server,training]`
installs.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch

import charloom.local
from charloom.bundle import DecoderKind, Unit
from charloom.export import export_bundle
from charloom.training.checkpoint import load_trained
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import read_corpus
from charloom.training.loop import Trainer
from charloom.training.records import Evaluation, Progress
from charloom.training.run_directory import load_validation

HALF = "(?:NNN|N2N|NN2|N3)".replace("N", "[A-Ga-g]")
BAR = f"{HALF}{HALF}"
TUNE = rf"(?:{BAR}\|){{4}}\n(?:{BAR}\|){{3}}{BAR}\|\]\n"
"""Two lines of four bars, each of six eighths; a note is one eighth, or as many as it says."""
NOTES = "CDEFGABcdefg"


def made(random: Random) -> str:
    """A jig that walks up and down the scale, and ends where it began."""
    place = home = random.choice((4, 6, 8))
    halves = []
    for _ in range(16):
        lengths = random.choice(((1, 1, 1), (1, 1, 1), (2, 1), (1, 2), (3,)))
        notes = ""
        for length in lengths:
            place = min(len(NOTES) - 1, max(0, place + random.choice((-2, -1, -1, 1, 1, 2))))
            notes += NOTES[place] + (str(length) if length > 1 else "")
        halves.append(notes)
    halves[-1] = f"{NOTES[home]}3"
    bars = [first + second for first, second in zip(halves[::2], halves[1::2], strict=True)]
    return "|".join(bars[:4]) + "|\n" + "|".join(bars[4:]) + "|]\n"


def jigs_of(text: str) -> Iterator[str]:
    """The tunes in six eighths of a file in ABC, without their headers, chords and signs, lines of whole bars alone."""
    for tune in re.split(r"\n\s*\n", text):
        if not re.search(r"^M:6/8", tune, re.M):
            continue
        lines = [line for line in tune.splitlines() if not re.match(r"[A-Za-z]:|%", line)]
        bars = re.sub(r'"[^"]*"|[^A-Ga-g0-9/|\n]', "", "".join(lines)).split("|")
        whole = [bar for bar in bars if re.fullmatch(BAR, bar)]
        for begin in range(0, len(whole) - 7, 8):
            eight = whole[begin : begin + 8]
            yield "|".join(eight[:4]) + "|\n" + "|".join(eight[4:]) + "|]\n"


class Quiet:
    """Tells how the training goes."""

    def step(self, progress: Progress) -> None:
        pass

    def evaluation(self, evaluation: Evaluation) -> None:
        print(f"validation: {evaluation.validation_loss:.3f} nats a character", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file in ABC to learn from (default: tunes that are made up)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the tunes (default: 4)")
    parser.add_argument("--count", type=int, default=8, help="tunes to write at the same time (default: 8)")
    arguments = parser.parse_args()
    if arguments.count < 2:
        parser.error("--count is 2 or more, for one tune alone is not resampled")
    warnings.filterwarnings("ignore", message=".*torch.jit.*")
    torch.set_num_threads(1)  # steps this small are faster on one core than on several

    random = Random(1)
    if arguments.text is None:
        tunes = [made(random) for _ in range(1000)]
    else:
        try:
            tunes = list(jigs_of(arguments.text.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as problem:
            parser.error(f"--text: {problem}")
    if not tunes:
        parser.error(f"--text {arguments.text} has no tunes in ABC with M:6/8 and eight bars of six eighths")
    print(f"{len(tunes)} tunes to learn from")
    config = TrainingConfig(
        layers=1, hidden_size=96, embedding_size=24, batch_size=16, epochs=arguments.epochs, sequence_length=80,
        learning_rate=1e-2, warmup_steps=20,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, run, bundle = folder / "tunes.txt", folder / "run", folder / "tunes"
        text.write_text("".join(tunes), "utf-8")
        Trainer(config, read_corpus(text, Unit.CHARACTER), run).train(Quiet())
        export_bundle(load_trained(run), load_validation(run), bundle, name="tunes", decoders=[DecoderKind.ONNX_FP32])
        with charloom.local.open(bundle) as client:
            free = client.continuations(n=arguments.count, max_tokens=80, seed=1).completions()
            print(
                f"\nleft to itself: {sum(re.match(TUNE, one.text) is not None for one in free)} of {len(free)} are jigs"
            )
            texts = client.continuations(n=arguments.count, resample=True, regex=TUNE, max_tokens=120, seed=1)
            for one in texts.completions():
                assert one.result.resampled is not None
                print(f"\nX:1\nT:of weight {one.result.resampled.weight:.2f}\nM:6/8\nL:1/8\nK:C\n{one.text}", end="")


if __name__ == "__main__":
    main()
