"""What a training recipe gives: several seeds, and a part of the text that nothing chose on.

    python -m benchmarks.recipe TEXT FOLDER [--seeds 1,2,3] [--test-share 0.1] [--minutes 85] [--threads N] [--json]
                                [-- FLAGS OF charloom train]

The last `--test-share` of the text is the test part; the tenth before it is the validation part, by which each run
chooses its best weights; the rest is trained on. With 0.1 these are the three parts 80/10/10, and the test part is the
one that `charloom train` validates on by default. With `--test-share 0` the last tenth is the validation part, and
nothing is left to test with. All losses are nats per token, by the two protocols of `charloom evaluate`.

FOLDER keeps the parts and a run for each seed. A call ends after `--minutes`, with what it has saved; the same call
again goes on from there, and a call when all runs have ended prints the figures alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.processes import hardware
from benchmarks.reporting import Budget, at_least_one, counts, finish, new_parser, say, some_minutes
from benchmarks.training_runs import MINUTES, claim, has_ended, train
from charloom.training.checkpoint import load_trained
from charloom.training.data.corpus import read_stream
from charloom.training.evaluate import losses
from charloom.training.files import replace_file
from charloom.training.run_directory import LOSSES_FILE

VALIDATION_SHARE = 0.1
"""Of the whole text"""
LEARN_FILE, TEST_FILE = "learn.txt", "test.txt"


def arguments(given: list[str]) -> argparse.Namespace:
    """What the command line says; what stands behind `--` is for `charloom train`."""
    own = given.index("--") if "--" in given else len(given)
    parser = new_parser(__doc__)
    parser.add_argument("text", metavar="TEXT", type=Path, help="a text file in UTF-8")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=counts, default=[1, 2, 3], help="a run for each (default: 1,2,3)")
    parser.add_argument("--test-share", type=_share, default=0.1, help="of the text, its end (default: 0.1)")
    parser.add_argument("--minutes", type=some_minutes, default=MINUTES, help="of this call (default: 85)")
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="CPU threads (default: torch's choice)")
    found = parser.parse_args(given[:own])
    found.flags = given[own + 1 :]
    return found


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1 - VALIDATION_SHARE:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to below {1 - VALIDATION_SHARE}")
    return share


def main(given: list[str]) -> None:
    """Train what is unfinished, measure what has ended."""
    options = arguments(given)
    budget = Budget(options.minutes)
    text = options.text.read_bytes().decode()
    cut = int(len(text) * (1 - options.test_share))
    if "--unit" not in options.flags and (strange := sorted(set(text[cut:]) - set(text[:cut]))):
        raise SystemExit(f"the test part has characters that the rest lacks: {', '.join(map(repr, strange))}")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    claim(options.folder, {"text": sha256, "test_share": options.test_share, "flags": options.flags})
    learn, test = options.folder / LEARN_FILE, options.folder / TEST_FILE if options.test_share else None
    replace_file(learn, text[:cut].encode())
    if test is not None:
        replace_file(test, text[cut:].encode())
    # The flags of the recipe come first, so that they cannot move the parts.
    flags = [*options.flags, "--validation-share", f"{VALIDATION_SHARE / (1 - options.test_share):.8f}"]
    runs = {seed: options.folder / f"seed-{seed}" for seed in options.seeds}
    for seed, run in runs.items():
        if not train(run, learn, [*flags, "--seed", str(seed)], budget, options.threads):
            break
    found: dict[str, Any] = {"hardware": hardware(), "flags": options.flags, "test_share": options.test_share}
    found["seeds"] = {str(seed): measured(run, test) for seed, run in runs.items() if has_ended(run)}
    found["unfinished"] = [seed for seed, run in runs.items() if not has_ended(run)]
    found |= summary(list(found["seeds"].values()))
    if found["unfinished"]:
        say(f"unfinished: seed {', '.join(map(str, found['unfinished']))}; the same command again goes on")
    finish(found, table(found), only_json=options.json)


def measured(run: Path, test: Path | None) -> dict[str, float]:
    """Losses of the best weights, such as `validation tail`; those of the test part are kept beside the run."""
    validated = json.loads((run / LOSSES_FILE).read_text())["losses"]
    found = {f"validation {name}": loss for name, loss in validated.items()}
    if test is None:
        return found
    kept = run.with_name(f"{run.name}.test.json")
    if not kept.is_file():
        say(f"{run.name}: measuring on the test part")
        trained = load_trained(run)
        tokens = read_stream([test], trained.vocabulary, trained.documents, mask=trained.mask)
        replace_file(kept, json.dumps(losses(trained.model, tokens)).encode())
    return found | {f"test {name}": loss for name, loss in json.loads(kept.read_text()).items()}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean of each figure, and its sample standard deviation where there are several runs."""
    if not runs:
        return {}
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    means = {name: mean(values) for name, values in columns.items()}
    return {"mean": means} | (
        {"deviation": {name: stdev(values) for name, values in columns.items()}} if len(runs) > 1 else {}
    )


def table(found: dict[str, Any]) -> list[list[object]]:
    """A line for each seed, then mean and sample standard deviation."""
    rows = {f"seed {seed}": figures for seed, figures in found["seeds"].items()}
    rows |= {name: found[name] for name in ("mean", "deviation") if name in found}
    names = list(next(iter(rows.values()), {}))
    return [["", *names], *([name, *(f"{figures[column]:.4f}" for column in names)] for name, figures in rows.items())]


if __name__ == "__main__":
    main(sys.argv[1:])
