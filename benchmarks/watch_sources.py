"""What many watched sources cost: characters per second and memory, with 1,000, 10,000 and 100,000 of them.

    python -m benchmarks.watch_sources [--bundle DIRECTORY] [--sources 1000,10000,100000] [--json]

A server of one process; the client is on the same cores. All sources speak at once: each says a line of 60 characters
before any says its next one, `--rounds` lines in all. "bytes_per_source" is the growth of the server's memory since
before the first of them, when all are idle again, and "ratio" is to the state's own bytes: a source also has its
calibration, and what a session has besides. The sources of a larger count are added to those of the smaller ones; the
speed is that of the added ones. A round trip is from the message with a line for each of 1,024 sources to its verdicts.

Without a bundle, one of `--preset log` is made first. Needs the server and training extras.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import CHARLOOM, Process, hardware, memory_measure, serving
from benchmarks.reporting import at_least_one, counts, finish, new_parser, say
from charloom.client import Client

AT_A_TIME = 1024
"""Sources of a message."""
LENGTH = 60
"""Characters of a line, its break included."""
SETTLED_SECONDS = 2.0
WARM = 200
"""Messages before anything is counted; their sources are those of another watch."""
WORDS = ("cache", "parity", "error", "corrected", "node", "card", "link", "job", "started", "core", "dump", "retry")


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--bundle", type=Path, metavar="DIRECTORY", help="of a model of bytes or characters")
    parser.add_argument("--sources", type=counts, default=[1000, 10_000, 100_000], help="default: 1000,10000,100000")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="lines of each source (default: 3)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = args.bundle or made_bundle(Path(temporary))
        most = max(args.sources) + WARM + 100
        with serving(bundle, "--max-sessions", str(most)) as server:
            rows = list(measured(server, sorted(args.sources), args.rounds))
    found: dict[str, Any] = {
        "memory_measure": memory_measure(),
        "hardware": hardware(),
        "rounds": args.rounds,
        "rows": rows,
    }
    table: list[Sequence[object]] = [
        ["sources", "characters/s", "lines/s", "round trip, ms", "bytes per source", "of the state"]
    ]
    table += [
        [
            row["sources"],
            row["characters_per_second"],
            row["lines_per_second"],
            row["round_trip_ms"],
            row["bytes_per_source"],
            row["ratio"],
        ]
        for row in rows
    ]
    finish(found, table, only_json=args.json)


def made_bundle(folder: Path) -> Path:
    """A small model of lines like those that are watched."""
    say("training a model of --preset log")
    text = folder / "lines.log"
    text.write_text("".join(f"{line(number, 0)}\n" for number in range(1000)), "utf-8")
    for command in (
        ["train", str(text), "--run", str(folder / "run"), "--preset", "log", "--threads", "1"],
        ["export", str(folder / "run"), str(folder / "bundle")],
    ):
        subprocess.run([sys.executable, *CHARLOOM, *command], check=True, capture_output=True)
    return folder / "bundle"


def line(source: int, turn: int) -> str:
    """What a source says: words, by chance that depends on source and turn alone."""
    chance = np.random.default_rng([source, turn])
    return " ".join(chance.choice(WORDS, size=LENGTH))[: LENGTH - 1]


def measured(server: Process, wanted: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Speed and memory at each count."""
    with Client(server.target, timeout=None) as client:
        state = client.model().state_bytes
        lines = [[line(source, turn) for source in range(AT_A_TIME)] for turn in range(rounds)]
        with client.watch("warm") as watch:
            for turn in range(WARM):
                watch.read([(f"w{number}", text) for number, text in enumerate(lines[turn % rounds][:WARM])])
        time.sleep(SETTLED_SECONDS)
        before, there = server.memory_kib(), 0
        say(f"warm: {before:,} KiB; a state is {state:,} bytes")
        for count in wanted:
            trips, start = list[float](), time.perf_counter()
            with client.watch("measured") as watch:
                for turn in range(rounds):
                    for first in range(there, count, AT_A_TIME):
                        some = range(first, min(first + AT_A_TIME, count))
                        begun = time.perf_counter()
                        watch.read([(f"s{number}", lines[turn][number % AT_A_TIME]) for number in some])
                        trips.append(time.perf_counter() - begun)
            seconds, said = time.perf_counter() - start, rounds * (count - there)
            time.sleep(SETTLED_SECONDS)
            each = 1024 * (server.memory_kib() - before) / count
            there = count
            yield {
                "sources": count,
                "characters_per_second": round(said * LENGTH / seconds),
                "lines_per_second": round(said / seconds),
                "round_trip_ms": round(1e3 * float(np.median(trips))),
                "bytes_per_source": round(each),
                "ratio": round(each / state, 2),
            }
            say(f"{count:,} sources: {said / seconds:,.0f} lines/s, {each:,.0f} bytes each")


if __name__ == "__main__":
    main()
