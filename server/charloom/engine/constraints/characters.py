"""Sets of characters in an expression, and the classes of characters that these do not distinguish.

Axis letters: N characters.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

if sys.version_info >= (3, 11):
    from re import _constants as ops  # type: ignore[attr-defined]
else:
    import sre_constants as ops

CodePoints = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

_CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


class Characters:
    """The characters that a model can write, with cached properties for all sets.

    Args:
        points: [N] in ascending order
    """

    def __init__(self, points: CodePoints) -> None:
        self.points = points

    @functools.cached_property
    def text(self) -> str:
        """All of them, in order."""
        return "".join(map(chr, self.points.tolist()))

    @functools.cached_property
    def cased(self) -> Mask:
        """[N]: which of them have another case; for the others, ignoring case makes no difference."""
        return np.array([one.lower() != one or one.upper() != one for one in self.text], bool)


@functools.cache
def every_character() -> Characters:
    """All code points of Unicode, without surrogates."""
    return Characters(np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)]).astype(np.uint32))


def characters_of(text: str) -> Characters:
    """The characters of a text."""
    return Characters(np.array(sorted({ord(character) for character in text}), np.uint32))


class CharacterSet(NamedTuple):
    """The characters that one position of an expression allows."""

    members: tuple[Any, ...]
    """As the parser of `re` represents them."""
    flags: int
    """The flags of `re` that affect it."""

    def mask(self, characters: Characters) -> Mask:
        """[N]: which characters are in it."""
        result = np.zeros(len(characters.points), bool)
        written = ""
        for kind, value in self.members:
            if kind in (ops.LITERAL, ops.RANGE):
                low, high = value if kind is ops.RANGE else (value, value)
                result[slice(*np.searchsorted(characters.points, [low, high + 1]))] = True
                written += rf"\U{low:08x}-\U{high:08x}"
            if kind is ops.CATEGORY:
                for match in re.finditer(f"{_CATEGORIES[value]}+", characters.text, self.flags & re.ASCII):
                    result[match.start() : match.end()] = True
                written += _CATEGORIES[value]
        negated = bool(self.members) and self.members[0][0] is ops.NEGATE
        if negated:
            result = ~result
        if self.flags & re.IGNORECASE and written:
            # Only `re` knows which characters are equal when case is ignored.
            matches = re.compile(f"[{'^' * negated}{written}]", self.flags).match
            places = np.flatnonzero(characters.cased)
            result[places] = [matches(characters.text[place]) is not None for place in places.tolist()]
        return result


class Classes(NamedTuple):
    """Characters, divided into classes that an expression does not distinguish."""

    points: CodePoints
    """[N] in ascending order"""
    number: npt.NDArray[np.int64]
    """[N] the class of each"""
    members: Sequence[Sequence[int]]
    """For each set of the expression, the classes that it consists of."""

    def of(self, character: str) -> int:
        """The class of a character, which must be in `points`."""
        return int(self.number[np.searchsorted(self.points, ord(character))])


def classes_of(sets: Sequence[CharacterSet], characters: Characters) -> Classes:
    """The coarsest division of the characters into classes such that each set is a union of classes."""
    # Between two places where some set begins or ends, characters are in the same sets. So look only at these places.
    first, changes = [], []
    for one in sets:
        mask = one.mask(characters)
        first.append(mask[:1])
        changes.append(np.flatnonzero(mask[1:] != mask[:-1]) + 1)
    begins = np.unique(np.concatenate([np.zeros(1, np.int64), *changes]))
    number = np.zeros(len(begins), np.int64)
    masks = [
        begin ^ (np.searchsorted(change, begins, side="right") % 2 == 1)
        for begin, change in zip(first, changes, strict=True)
    ]
    for mask in masks:
        number = np.unique(2 * number + mask, return_inverse=True)[1].reshape(-1)
    members = [sorted(set(number[mask].tolist())) for mask in masks]
    return Classes(characters.points, np.repeat(number, np.diff(begins, append=len(characters.points))), members)
