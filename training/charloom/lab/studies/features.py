"""Features of each character that follow from the text before it: position in line and word, quotes, indentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
"""One value for each character, [T]."""
RARE = 0.005
"""A feature with fewer than this share of characters away from its most frequent value is as good as absent."""


@dataclass(frozen=True)
class Feature:
    """One feature."""

    name: str
    values: Callable[[str], Iterator[int]]
    absent: str
    """What a text without the feature lacks, for messages."""


def _line_positions(text: str) -> Iterator[int]:
    """Characters since the last line break; of the break itself 0."""
    position = 0
    for character in text:
        position = 0 if character == "\n" else position + 1
        yield position


def _word_positions(text: str) -> Iterator[int]:
    """Letters and digits since the last other character; of any other character 0."""
    position = 0
    for character in text:
        position = position + 1 if character.isalnum() or (character == "'" and position) else 0
        yield position


def _quotes(text: str) -> Iterator[int]:
    """Whether the text is inside of double quotes; an empty line closes them."""
    inside, last = False, ""
    for character in text:
        if character in "“”":
            inside = character == "“"
        elif character == '"':
            inside = not inside
        elif character == last == "\n":
            inside = False
        last = character
        yield int(inside)


def _indentations(text: str) -> Iterator[int]:
    """Columns of white space that the line began with so far; a tab counts as four."""
    depth, leading = 0, True
    for character in text:
        if character == "\n":
            depth, leading = 0, True
        elif leading and character in " \t":
            depth += 4 if character == "\t" else 1
        else:
            leading = False
        yield depth


FEATURES = (
    Feature("position in line", _line_positions, "line breaks"),
    Feature("position in word", _word_positions, "words"),
    Feature("inside quotes", _quotes, "double quotes"),
    Feature("indentation", _indentations, "indented lines"),
)


def values(feature: Feature, text: str) -> Values | None:
    """The feature of each character; None where the text does not have it."""
    if feature.name == "position in line" and "\n" not in text:
        return None
    found = np.fromiter(feature.values(text), dtype=np.float64, count=len(text))
    _, counts = np.unique(found, return_counts=True)
    return None if 1 - counts.max() / len(text) < RARE else found


CLASSES = ("lower case", "upper case", "digit", "space", "newline", "punctuation", "other")


def character_class(character: str) -> str:
    """One of `CLASSES`."""
    if character == "\n":
        return "newline"
    if character.isspace():
        return "space"
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "upper case" if character.isupper() else "lower case"
    return "punctuation" if (character.isascii() and character.isprintable()) or character in "“”‘’—–…" else "other"
