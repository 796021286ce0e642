"""Tasks that make their own examples: strings to turn round, and dates to write in the one form of ISO 8601."""

from __future__ import annotations

import datetime
import zlib
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_BELOW_TEN = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
DAYS = (
    *_BELOW_TEN,
    *("tenth", "eleventh", "twelfth", "thirteenth", "fourteenth"),
    *("fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    *("twentieth", *(f"twenty-{day}" for day in _BELOW_TEN), "thirtieth", "thirty-first"),
)
FIRST_DAY, LAST_DAY = datetime.date(1970, 1, 1), datetime.date(2069, 12, 31)
HELD_OUT = 10
"""One of so many strings or days is kept for the test."""


class Pair(NamedTuple):
    """One example: a source and its target."""

    source: str
    target: str


class PairTask(Protocol):
    """A source of examples."""

    @property
    def source_symbols(self) -> str:
        """Every character that a source may have."""

    @property
    def target_symbols(self) -> str:
        """Every character that a target may have."""

    @property
    def longest(self) -> int:
        """Characters of the longest target."""

    def pair(self, random: Random, *, held_out: bool) -> Pair:
        """A random example: one of those held out, or one of the others."""


def is_held_out(key: str) -> bool:
    """Whether this string or day is one of the test's; the same in every process."""
    return zlib.crc32(key.encode()) % HELD_OUT == 0


@dataclass(frozen=True)
class Reversal:
    """Random lower-case strings, and the same strings backwards."""

    shortest: int = 4
    longest: int = 10
    source_symbols = target_symbols = LETTERS

    def pair(self, random: Random, *, held_out: bool) -> Pair:
        """A string and its reverse; no string is in training and in the test."""
        while True:
            source = "".join(random.choices(LETTERS, k=random.randint(self.shortest, self.longest)))
            if is_held_out(source) == held_out:
                return Pair(source, source[::-1])


@dataclass(frozen=True)
class Dates:
    """Days from 1970 to 2069 as people write them, and as ISO 8601 does. A day that is held out is so in every form."""

    source_symbols = "".join(sorted(set("".join([*MONTHS, *DAYS]) + "JFMASOND, ./0123456789")))
    target_symbols = "-0123456789"
    longest = 10

    def pair(self, random: Random, *, held_out: bool) -> Pair:
        """A day in a random form, and in the one form."""
        while True:
            day = FIRST_DAY + datetime.timedelta(days=random.randrange((LAST_DAY - FIRST_DAY).days + 1))
            if is_held_out(day.isoformat()) == held_out:
                return Pair(random.choice(written_forms(day)), day.isoformat())


def written_forms(day: datetime.date) -> list[str]:
    """A day in each form that `Dates` knows. Years of two digits are those from 1970 to 2069."""
    month = MONTHS[day.month - 1]
    name, short, number = month.capitalize(), month[:3].capitalize(), f"{day.day}{_ending(day.day)}"
    return [
        f"{name} {number}, {day.year}",
        f"{number} of {name} {day.year}",
        f"{day.day} {short} {day.year % 100:02d}",
        f"{short} {day.day}, {day.year}",
        f"{day.day:02d}.{day.month:02d}.{day.year}",
        f"{day.month}/{day.day}/{day.year}",
        f"the {DAYS[day.day - 1]} of {month} {day.year}",
    ]


def _ending(number: int) -> str:
    return "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
