"""How long from the start of a server process to the first character at a client.

    python -m benchmarks.startup [--runs N] [--bundle DIRECTORY] [--json]

The client is this process and is loaded before the clock starts. The last line is one JSON object.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from benchmarks.processes import hardware, serving
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.client import Client
from charloom.models import BUNDLED_MODEL


def first_character(bundle: Path) -> float:
    """Seconds from the start of a server process to the first streamed character."""
    began = time.perf_counter()
    with (
        serving(bundle) as server,
        Client(server.target) as client,
        client.generate("ROMEO:", max_tokens=10) as stream,
    ):
        next(stream)
        return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--runs", type=at_least_one, default=7, help="counted runs, after one that is not counted")
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODEL, help="bundle to serve")
    arguments = parser.parse_args()
    first_character(arguments.bundle)
    times = []
    for run in range(arguments.runs):
        times.append(first_character(arguments.bundle))
        say(f"run {run + 1}: {times[-1]:.3f} s to the first character")
    found = {"min": min(times), "median": statistics.median(times), "max": max(times)}
    found = {name: round(value, 3) for name, value in found.items()}
    table = [("seconds to the first character", *found), ("", *found.values())]
    finish({"first_char_s": found, "hardware": hardware()}, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
