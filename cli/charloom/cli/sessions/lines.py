"""What each line of a text is, by calls that take many texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from charloom.cli import CommandError
from charloom.client import InvalidArgument, QuotaExceeded

Answer = TypeVar("Answer")


def lines_of(text: str) -> list[str]:
    """The lines of a text, without the line breaks at their ends, be they those of Windows or of other systems."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def of_lines(answers: Iterable[Answer], numbers: Sequence[int], kind: str) -> Iterator[Answer]:
    """The answers as they come.

    Args:
        answers: of a call of many texts, in their order
        numbers: of which line each text is
        kind: what an answer is called

    Raises:
        CommandError: the server refuses a text; the message names its line.
    """
    told = 0
    try:
        for answer in answers:
            yield answer
            told += 1
    except (InvalidArgument, QuotaExceeded) as problem:
        if f"texts[{told}]" not in str(problem):
            raise
        raise CommandError(f"line {numbers[told]} has no {kind}, nor have those after it: {problem}") from problem
