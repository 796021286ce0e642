"""Numbers made alike: what changes from line to line in a log and says nothing, such as times, addresses and counts."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_DIGIT = re.compile(r"[0-9]")


class Masked(NamedTuple):
    """A text with its numbers masked, and where its characters come from."""

    text: str
    places: list[int]
    """Of each character of `text`, the place of the first character in the original that it stands for."""


class Mask(str, enum.Enum):
    """Which numbers of a text are replaced before a model reads it. Digits are those of ASCII."""

    NONE = "none"
    DIGITS = "digits"
    """Each digit becomes 0, so that the length of a number stays."""
    NUMBERS = "numbers"
    """Each run of digits becomes one 0, and so does a hexadecimal number that begins with 0x."""

    def apply(self, text: str) -> str:
        """The text with its numbers masked."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub("0", text)

    def apply_with_places(self, text: str) -> Masked:
        """The same, and where each character comes from."""
        pattern = self._pattern
        if pattern is None:
            return Masked(text, list(range(len(text))))
        return Masked(pattern.sub("0", text), list(_places(pattern, text)))

    @property
    def _pattern(self) -> re.Pattern[str] | None:
        return {Mask.NONE: None, Mask.DIGITS: _DIGIT, Mask.NUMBERS: _NUMBER}[self]


def _places(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    at = 0
    for found in pattern.finditer(text):
        yield from range(at, found.start() + 1)
        at = found.end()
    yield from range(at, len(text))
