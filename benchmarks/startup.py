"""How long from the start of a server process to the first character at a client.

    python -m benchmarks.startup [--runs N] [--bundle DIRECTORY]

The client is this process and is loaded before the clock starts. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from benchmarks.processes import hardware, serving
from charloom.client import Client
from charloom.models import BUNDLED_MODEL


def first_character(bundle: Path) -> float:
    """Seconds from the start of a server process to the first streamed character."""
    began = time.perf_counter()
    with serving(bundle) as target, Client(target) as client, client.generate("ROMEO:", max_tokens=10) as stream:
        next(stream)
        return time.perf_counter() - began


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs, after one that is not counted")
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODEL, help="bundle to serve")
    arguments = parser.parse_args()
    first_character(arguments.bundle)
    times = []
    for run in range(arguments.runs):
        times.append(first_character(arguments.bundle))
        print(f"run {run + 1}: {times[-1]:.3f} s to the first character", file=sys.stderr)
    figures = {"min": min(times), "median": statistics.median(times), "max": max(times)}
    print(json.dumps({"first_char_s": {k: round(v, 3) for k, v in figures.items()}, "hardware": hardware()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
