"""Domain names that a program made, told from those that people chose: a classifier trained, exported and served.

    python examples/generated_names.py               # makes its data, trains for about a minute, serves, labels
    python examples/generated_names.py --names 1500 --epochs 3

Malware that asks for new domain names every day has an algorithm for them. Here are four, in the manner of those that
were seen: hexadecimal digits, letters of a linear congruential generator, pronounceable syllables, and three words of a
list joined. Against them stand words, words with what brands put behind them, and two words joined. No word
that the test uses is in the training. Needs what `charloom[server,training]` installs.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import re
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch

import charloom.local
from charloom.cli.training.classifier_export import classifier_to_export
from charloom.export import export_classifier
from charloom.lab.tasks.classification import ClassifierTrainer, Epoch
from charloom.lab.tasks.classifier_runs import load_classifier
from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.folders import Parts, Text
from charloom.lab.tasks.predict import scores_of

LABELS = ("chosen", "generated")
WORDS = sorted(set(re.findall(r"\b[a-z]{4,10}\b", " ".join(pydoc_data.topics.topics.values()))))
"""Words of Python's own manual, which every Python has."""
CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
BEHIND = ("ly", "ify", "hub", "labs", "soft", "shop", "net", "cloud", "app", "box", "zone", "go")
Maker = Callable[[Random, Sequence[str]], str]


def hexadecimal(random: Random, words: Sequence[str]) -> str:
    return f"{random.getrandbits(64):016x}"[: random.randint(8, 16)]


def congruential(random: Random, words: Sequence[str]) -> str:
    """Letters of a linear congruential generator with the constants of ANSI C, seeded with a day."""
    state, letters = random.randint(0, 365_000), ""
    for _ in range(random.randint(8, 15)):
        state = (1_103_515_245 * state + 12_345) % 2**31
        letters += chr(ord("a") + (state >> 16) % 26)
    return letters


def syllables(random: Random, words: Sequence[str]) -> str:
    return "".join(random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(random.randint(4, 7)))


def joined(random: Random, words: Sequence[str]) -> str:
    return "".join(random.choices(words, k=3))


def word(random: Random, words: Sequence[str]) -> str:
    return random.choice(words)


def brand(random: Random, words: Sequence[str]) -> str:
    return random.choice(words) + random.choice(BEHIND)


def two_words(random: Random, words: Sequence[str]) -> str:
    return random.choice(words) + random.choice(("", "-")) + random.choice(words)


MAKERS: dict[str, Sequence[Maker]] = {
    "chosen": (word, brand, two_words),
    "generated": (hexadecimal, congruential, syllables, joined),
}


def made(count: int, seed: int, words: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Names, half of them of each label, with the label's index and what made them."""
    random = Random(seed)
    for number in range(count):
        label = number % 2
        maker = random.choice(MAKERS[LABELS[label]])
        yield maker(random, words), label, maker.__name__


class Lines:
    """Tells how the training goes."""

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        print(f"epoch {epoch.epoch}: validation accuracy {epoch.accuracy:.4f}, {epoch.seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=20_000, help="names to train on (default: 20,000)")
    parser.add_argument("--epochs", type=int, default=6, help="most passes over them (default: 6)")
    parser.add_argument("--model", type=Path, help="also keep the bundle, in this new directory")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*torch.jit.*")

    torch.set_num_threads(1)  # steps this small are faster on one core than on several

    known = [one for one in WORDS if zlib.crc32(one.encode()) % 5]
    others = [one for one in WORDS if not zlib.crc32(one.encode()) % 5]
    train, validation = made(arguments.names, 1, known), made(2000, 2, others[::2])
    test = list(made(2000, 3, others[1::2]))
    parts = Parts(
        LABELS,
        train=[Text(name, label) for name, label, _ in train],
        validation=[Text(name, label) for name, label, _ in validation],
        test=[Text(name, label) for name, label, _ in test],
    )
    config = ClassificationConfig(hidden_size=96, embedding_size=24, epochs=arguments.epochs)
    with tempfile.TemporaryDirectory() as folder:
        run, bundle = Path(folder) / "run", arguments.model or Path(folder) / "names"
        training = ClassifierTrainer(config, parts, run)
        training.train(Lines())
        classifier = load_classifier(run).classifier
        judged = classifier.judge(training.test)
        before, scores = scores_of(judged, 1.0), scores_of(judged, classifier.temperature)
        print(f"\n{scores.texts:,} names of the test: accuracy {scores.accuracy:.4f}, macro F1 {scores.macro_f1:.4f}")
        for label, counts in zip(LABELS, scores.confusion.tolist(), strict=True):
            print(f"  {label:9} given {dict(zip(LABELS, counts, strict=True))}")
        print(
            f"calibration error {before.calibration_error:.4f}, at temperature {classifier.temperature:.2f} "
            f"{scores.calibration_error:.4f}\n"
        )
        export_classifier(classifier_to_export(run), bundle, name="names", tell=print)

        with charloom.local.open(bundle) as client:
            right, all_of = Counter[str](), Counter[str]()
            began = time.perf_counter()
            found = client.classify_many(name for name, _, _ in test)
            for (_, label, maker), (_, labelled) in zip(test, found, strict=True):
                all_of[maker] += 1
                right[maker] += labelled.label == LABELS[label]
            seconds = time.perf_counter() - began
            print(f"\nserved, {len(test) / seconds:,.0f} labels/s; share that is right, by what made the names:")
            for maker, count in sorted(all_of.items()):
                print(f"  {maker:12} {right[maker] / count:.3f} of {count}")
            print("\nletter by letter, how probable it is that a program made it:")
            for name in ("wikipedia", "xkqjvwpz", "a3f09c71be"):
                with client.classify_stream() as labeller:
                    shown = [f"{letter} {labeller.read(letter).probabilities['generated']:.2f}" for letter in name]
                print("  " + "  ".join(shown))


if __name__ == "__main__":
    main()
