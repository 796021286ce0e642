"""What benchmarks print: progress to stderr, a table and one JSON object to stdout; which run counts, and how long."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

Figures = dict[str, Any]
"""What was measured, by the names that the JSON object has."""
T = TypeVar("T")


class Budget:
    """The time that a benchmark may take, from now on.

    Args:
        minutes: how long
        clock: seconds
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + 60 * minutes

    @property
    def seconds(self) -> float:
        """What is left of it, at least 0."""
        return max(0.0, self._end - self._clock())


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flag that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    return parser


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def finish(figures: dict[str, Any], table: Sequence[Sequence[object]], *, only_json: bool) -> None:
    """Print a table, its first row the headings, and then the JSON object in one line."""
    if not only_json:
        print(table_of(table), end="\n\n")
    print(json.dumps(figures))


def table_of(rows: Sequence[Sequence[object]]) -> str:
    """Rows in columns; numbers from a thousand on with separators."""
    cells = [[f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def best(runs: Iterable[T], of: Callable[[T], float]) -> T:
    """The run with the largest figure: what disturbs a machine makes it slower, never faster."""
    return max(runs, key=of)


def best_and_median(runs: Iterable[Figures], of: Callable[[Figures], float]) -> Figures:
    """The run with the largest figure and the middle one, of two the lower, and how many runs there were."""
    ranked = sorted(runs, key=of)
    return {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "runs": len(ranked)}


def shown_times(found: dict[str, float] | None) -> str:
    """Median and 99th percentile as a cell."""
    return f"{found['p50']:,.1f} / {found['p99']:,.1f}" if found else "-"


def counts(text: str) -> list[int]:
    """The numbers of a flag such as `--streams 1,4,16`."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 1 on, such as 1,4,16")
    return found


def at_least_one(text: str) -> int:
    """A number from 1 on."""
    found = counts(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return found[0]


def names_of(choices: Collection[str]) -> Callable[[str], list[str]]:
    """What reads a flag such as `--loads short,long`: some of these names."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := set(found).difference(choices):
            raise argparse.ArgumentTypeError(
                f"{', '.join(map(repr, sorted(unknown)))}: choose from {', '.join(choices)}"
            )
        return found

    return names


def some_minutes(text: str) -> float:
    """A number of minutes above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return number
