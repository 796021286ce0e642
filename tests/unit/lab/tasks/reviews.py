"""Film reviews made from templates: negation, misspellings, different lengths.

What decides is one judgement; all else is said in reviews of both kinds. Three judgements of ten are negated, so that
each judging word occurs in reviews of both kinds too.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

GOOD = ["good", "funny", "moving", "brilliant", "gripping"]
BAD = ["bad", "boring", "stupid", "clumsy", "awful"]
OPENINGS = ["Seen twice.", "My first.", "On TV!", ""]
JUDGED = ["It is {}.", "I found it {}.", "The end is {}.", "A {} film.", "{}, all in all."]
PLAIN = ["really {}", "{}", "very {}", "quite {}"]
NEGATED = ["not {}", "not {} at all", "never {}", "hardly {}"]
ENDINGS = ["Two hours.", "In Danish...", "Music by Bo.", "From 1997.", "Go early?"]


def review(random: Random, positive: bool) -> str:
    """One review."""
    negated = random.random() < 0.3
    word = random.choice(GOOD if positive != negated else BAD)
    judgement = random.choice(JUDGED).format(
        random.choice(NEGATED if negated else PLAIN).format(_misspelt(random, word))
    )
    between = random.sample(ENDINGS, random.randint(0, 2))
    return " ".join(part for part in [random.choice(OPENINGS), judgement, *between] if part)


def reviews(count: int, seed: int) -> list[tuple[str, str]]:
    """Different reviews with their labels: a third negative."""
    random, found = Random(seed), {}
    while len(found) < count:
        positive = len(found) % 3 > 0
        found[review(random, positive)] = "pos" if positive else "neg"
    return list(found.items())


def write_reviews(folder: Path, made: list[tuple[str, str]]) -> Path:
    """A sub-folder for each label."""
    for number, (text, label) in enumerate(made):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:04}.txt").write_text(text + "\n", "utf-8")
    return folder


def _misspelt(random: Random, word: str) -> str:
    if random.random() < 0.8:
        return word
    at = random.randrange(1, len(word) - 1)
    return random.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]])
