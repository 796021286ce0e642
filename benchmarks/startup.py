"""How long from the start of a server process to the first character at a client, and of a command to its own.

    python -m benchmarks.startup [--runs N] [--bundle DIRECTORY] [--json]

The client is this process and is loaded before the clock starts. The commands are `charloom demo`, which starts a
server process and is its client, and `charloom generate --bundle`, which needs none; their whole processes count. All
three are run by turns. The last line is one JSON object.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.processes import CHARLOOM, hardware, serving
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.client import Client
from charloom.models import BUNDLED_MODEL

PROMPT = "ROMEO:"


def first_character(bundle: Path) -> float:
    """Seconds from the start of a server process to the first streamed character."""
    began = time.perf_counter()
    with (
        serving(bundle) as server,
        Client(server.target) as client,
        client.generate(PROMPT, max_tokens=10) as stream,
    ):
        next(stream)
        return time.perf_counter() - began


def first_printed(words: Sequence[str], before: int) -> float:
    """Seconds from the start of a command to the character that it prints after so many others."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *CHARLOOM, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as running:
        assert running.stdout is not None
        found = running.stdout.read(before + 1)
        seconds = time.perf_counter() - began
        running.stdout.read()
    if len(found) <= before or running.returncode != 0:
        raise SystemExit(f"charloom {words[0]} has printed no text")
    return seconds


def figures(times: Sequence[float]) -> dict[str, float]:
    """The least, the median and the most, in seconds."""
    found = {"min": min(times), "median": statistics.median(times), "max": max(times)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--runs", type=at_least_one, default=7, help="counted runs, after one that is not counted")
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODEL, help="bundle to serve")
    arguments = parser.parse_args()
    bundle = ("--bundle", str(arguments.bundle), PROMPT, "--max-tokens", "10")
    ways: dict[str, Callable[[], float]] = {
        "server": lambda: first_character(arguments.bundle),
        "demo": lambda: first_printed(("demo", *bundle), len(PROMPT)),  # it prints the prompt first
        "generate --bundle": lambda: first_printed(("generate", *bundle), 0),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for run in range(arguments.runs):
        for name, way in ways.items():
            times[name].append(way())
        say(f"run {run + 1}: " + ", ".join(f"{name} {found[-1]:.3f} s" for name, found in times.items()))
    server, demo, alone = (figures(found) for found in times.values())
    ratio = {name: round(alone[name] / demo[name], 2) for name in ("min", "median")}
    table = [
        ("seconds to the first character", *server),
        *((name, *figures(found).values()) for name, found in times.items()),
    ]
    told = {"first_char_s": server, "demo_s": demo, "generate_bundle_s": alone, "generate_over_demo": ratio}
    finish({**told, "hardware": hardware()}, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
