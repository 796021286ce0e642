"""How many lines a second are scored: in one stream of many, by a call for each, and as candidates of Rank.

    python -m benchmarks.reading [--lines 2000] [--characters 40] [--at-once 64] [--repeat 3] [--json]

A server of the reference bundle and its client are processes of their own on this machine. The ways are run by turns;
the best of their runs count. The last line is one JSON object: lines per second of `score_many`, of `score` one after
another and `--at-once` at a time, and of `rank` of 256 candidates after one prompt; "ratio" and "ratio_at_once" are
those of the first to the next two, "_median" those of the runs in the middle.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.client import AsyncClient
from charloom.engine.limits import MOST_TOGETHER

Way = Callable[[AsyncClient, Sequence[str]], Awaitable[None]]


def lines_of(count: int, characters: int) -> list[str]:
    """Random lines, the same in each run."""
    chance = random.Random(0)
    return ["".join(chance.choices(string.ascii_lowercase + " ", k=characters)) for _ in range(count)]


async def many(client: AsyncClient, lines: Sequence[str]) -> None:
    """All lines in one stream."""
    found = [score.text async for score in client.score_many(lines)]
    assert len(found) == len(lines)


async def one_by_one(client: AsyncClient, lines: Sequence[str]) -> None:
    """A call for each, one after another."""
    for line in lines:
        await client.score(line)


def at_once(count: int) -> Way:
    """A call for each, so many at a time."""

    async def score(client: AsyncClient, lines: Sequence[str]) -> None:
        left = iter(lines)

        async def worker() -> None:
            for line in left:
                await client.score(line)

        await asyncio.gather(*(worker() for _ in range(count)))

    return score


async def ranked(client: AsyncClient, lines: Sequence[str]) -> None:
    """All lines as candidates, as many in a call as may be."""
    for begin in range(0, len(lines), MOST_TOGETHER):
        await client.rank(lines[begin : begin + MOST_TOGETHER], prompt="First Citizen:\n")


async def measured(target: str, ways: dict[str, tuple[Way, Sequence[str]]], repeat: int) -> dict[str, list[float]]:
    """Lines per second of each way, of each run."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    async with AsyncClient(target, timeout=None) as client:
        await many(client, lines_of(200, 40))
        for _ in range(repeat):
            for name, (way, lines) in ways.items():
                began = time.perf_counter()
                await way(client, lines)
                speeds[name].append(len(lines) / (time.perf_counter() - began))
                say(f"{name}: {speeds[name][-1]:,.0f} lines/s")
    return speeds


def result(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """The best speeds, and their ratios."""
    found: dict[str, Any] = {f"{name}_per_s": round(max(some), 1) for name, some in speeds.items()}
    for suffix, of in (("", max), ("_median", statistics.median)):
        speed = {name: float(of(some)) for name, some in speeds.items()}
        found[f"ratio{suffix}"] = round(speed["score_many"] / speed["score"], 2)
        found[f"ratio_at_once{suffix}"] = round(speed["score_many"] / speed["score_at_once"], 2)
    return found


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--lines", type=at_least_one, default=2000, help="lines of a run (default: 2000)")
    parser.add_argument("--characters", type=at_least_one, default=40, help="of a line (default: 40)")
    parser.add_argument("--at-once", type=at_least_one, default=64, help="calls at a time (default: 64)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of each way (default: 3)")
    arguments = parser.parse_args()
    lines = lines_of(arguments.lines, arguments.characters)
    ways: dict[str, tuple[Way, Sequence[str]]] = {
        "score_many": (many, lines),
        "score": (one_by_one, lines[: len(lines) // 5 or 1]),
        "score_at_once": (at_once(arguments.at_once), lines),
        "rank": (ranked, lines),
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        with serving(bundle) as server:
            speeds = asyncio.run(measured(server.target, ways, arguments.repeat))
    found = result(speeds)
    asked = {name: getattr(arguments, name) for name in ("lines", "characters", "at_once")}
    table = [("way", "lines/s"), *((name, found[f"{name}_per_s"]) for name in ways)]
    finish(found | asked | {"hardware": hardware()}, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
