"""Pairs from a file, a parallel corpus: a line each, the source and its target with a tab between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from charloom.lab.tasks.pairs import Pair
from charloom.training.data.texts import CorpusError, pieces

MOST_CHARACTERS = 100_000_000
"""Of a file."""
FEWEST_SOURCES = 10


@dataclass(frozen=True)
class Parallel:
    """Pairs to train on, and others for the test; no source is in both."""

    training: Sequence[Pair]
    held_out: Sequence[Pair]
    """in a random order"""

    @property
    def source_symbols(self) -> str:
        """Every character of the sources to train on."""
        return "".join(sorted({character for pair in self.training for character in pair.source}))

    @property
    def target_symbols(self) -> str:
        """Every character of the targets to train on."""
        return "".join(sorted({character for pair in self.training for character in pair.target}))

    @property
    def longest(self) -> int:
        """Characters of the longest target."""
        return max(len(pair.target) for part in (self.training, self.held_out) for pair in part)

    def pair(self, random: Random, *, held_out: bool) -> Pair:
        """A random pair of one part."""
        return random.choice(self.held_out if held_out else self.training)


def read_parallel(
    file: Path, *, longest: int, test_share: float = 0.1, seed: int = 1, encoding: str = "utf-8"
) -> Parallel:
    """Read the pairs of a file, and hold out some of its sources, each with all its targets.

    Runs of white space become one space. Further columns, empty lines and pairs that were there before are left out.

    Args:
        file: at most `MOST_CHARACTERS` long
        longest: characters that a source or a target may have
        test_share: of the different sources, the share that is held out
        seed: of the choice; the same file and seed give the same parts
        encoding: of the file

    Raises:
        CorpusError: the file cannot be read or is too large, a line is no pair or too long, or there are too few.
    """
    targets: dict[str, dict[str, None]] = {}
    longest_side, longest_line = 0, 0
    for number, line in enumerate(_text(file, encoding).split("\n"), 1):
        if not line.strip(" \r"):
            continue
        pair = _pair(file, number, line)
        if (side := max(len(pair.source), len(pair.target))) > longest_side:
            longest_side, longest_line = side, number
        targets.setdefault(pair.source, {})[pair.target] = None
    if longest_side > longest:
        raise CorpusError(
            f"{file}, line {longest_line}: the pair is {longest_side} characters long on one side, the longest of the "
            f"file, and --longest is {longest}; raise that, which takes more memory and time, or take long pairs out"
        )
    if len(targets) < FEWEST_SOURCES:
        raise CorpusError(
            f"{file} has {len(targets)} different sources, too few to train on some and test others; "
            f"give at least {FEWEST_SOURCES} lines"
        )
    sources = list(targets)
    Random(seed).shuffle(sources)
    count = min(max(1, round(test_share * len(sources))), len(sources) - 1)
    held_out, training = (
        [Pair(source, target) for source in part for target in targets[source]]
        for part in (sources[:count], sources[count:])
    )
    return Parallel(training, held_out)


def _text(file: Path, encoding: str) -> str:
    parts, read = [], 0
    for piece in pieces(file, encoding):
        parts.append(piece)
        read += len(piece)
        if read > MOST_CHARACTERS:
            raise CorpusError(f"{file} has more than {MOST_CHARACTERS:,} characters; give a part of its lines")
    return "".join(parts)


def _pair(file: Path, number: int, line: str) -> Pair:
    source, tab, rest = line.partition("\t")
    if not tab:
        raise CorpusError(f"{file}, line {number}: there is no tab; a line is a source, a tab and its target")
    pair = Pair(" ".join(source.split()), " ".join(rest.partition("\t")[0].split()))
    for name, side in pair._asdict().items():
        if not side:
            raise CorpusError(f"{file}, line {number}: the {name} is empty; give it a text, or take the line out")
    return pair
