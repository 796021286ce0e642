"""Whether a server that is asked for ten times what it takes still gives all that it can.

    python -m benchmarks.overload [--rude] [--seconds 10] [--repeat 3] [--json]

The server takes few calls at a time. The peak is what it gives when all its rows are in use and half as many calls wait
as it lets wait; overloaded, it has ten times as many clients as it takes. Refused clients wait as the server says, and
a random time; with `--rude` they ask again at once. Both are measured by turns, and the best runs count. The clients
run on the same machine, so that their work for refusals takes from the server's. The last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import Process, cores, hardware, output_of, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, best, finish, new_parser, say, shown_times

ROWS, WAITING = 16, 16
"""Rows of a decoder call, of which there is one per core at a time; and calls that wait."""
TIMES = 10


def clients_of_peak() -> int:
    """As many as keep the server busy without a refusal."""
    return ROWS * cores() + WAITING // 2


def clients_of_overload() -> int:
    """Ten times as many as it takes."""
    return TIMES * (ROWS * cores() + WAITING)


def run(server: Process, clients: int, seconds: int, *, rude: bool) -> dict[str, Any]:
    """One run of some clients."""
    flags = ["--clients", str(clients), "--seconds", str(seconds), *(["--rude"] if rude else [])]
    found = output_of("-m", "benchmarks.retrying", "--target", server.target, *flags)
    say(f"{clients} clients: {found}")
    return found


def speed(found: dict[str, Any]) -> float:
    """By what runs are compared."""
    return float(found["chars_per_s"])


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--rude", action="store_true", help="refused clients ask again at once")
    parser.add_argument("--seconds", type=at_least_one, default=10, help="length of a run (default: 10)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs, of which the best counts (default: 3)")
    arguments = parser.parse_args()
    peaks, overloads = [], []
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        flags = ["--max-rows", str(ROWS), "--max-waiting", str(WAITING), "--workers", str(cores())]
        with serving(bundle, *flags) as server:
            for _ in range(arguments.repeat):
                peaks.append(run(server, clients_of_peak(), arguments.seconds, rude=arguments.rude))
                overloads.append(run(server, clients_of_overload(), arguments.seconds, rude=arguments.rude))
    peak, overloaded = best(peaks, speed), best(overloads, speed)
    found = {
        "clients": {"peak": clients_of_peak(), "overloaded": clients_of_overload()},
        "rude": arguments.rude,
        "peak_chars_per_s": peak["chars_per_s"],
        "overloaded_chars_per_s": overloaded["chars_per_s"],
        "ratio": round(speed(overloaded) / speed(peak), 3),
        "calls": overloaded["calls"],
        "refusals": overloaded["refusals"],
        "refusal_ms": overloaded["refusal_ms"],
        "client_cpu": {"peak": peak["client_cpu"], "overloaded": overloaded["client_cpu"]},
        "hardware": hardware(),
    }
    table: list[tuple[object, ...]] = [("clients", "characters/s", "calls", "refusals", "refusal p50 / p99 ms")]
    for clients, one in ((clients_of_peak(), peak), (clients_of_overload(), overloaded)):
        times = shown_times(one["refusal_ms"])
        table.append((clients, one["chars_per_s"], one["calls"], one["refusals"], times))
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
