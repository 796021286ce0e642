"""Throughput and latency through real gRPC, as ratios to what the decoder alone does on this machine.

    python -m benchmarks.serving [--streams 1,4,16,64,256] [--repeat 3] [--no-fp32] [--json]

Server and client are processes of their own, on this machine. The last line is one JSON object. In it, "ceiling" is the
bare decoder step on all cores; "ratio" is to that, at one stream to the bare step with one row on one core. "step_us"
and "bare_step_us" are microseconds of one step of all rows, by the number of rows, on one core. "ttfc_busy_ms" is the
time to the first character of single calls among 64 long streams, "ttfc_idle_ms" the same on an idle server.
"server_cpu" and "client_cpu" are cores; "server_loop_cpu" is the part of the server's event loop.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ceiling import ceiling, characters_per_second, step_microseconds
from benchmarks.processes import CpuMeter, Process, bench, cores, hardware, running, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, best, counts, finish, new_parser, say, shown_times
from charloom.bundle import DecoderKind

LONG, LONG_ROUNDS, SHORT_ROUNDS, OBVIOUS_LONG = 1000, 8, 3, 50
BUSY = 64
"""Streams at which everything is measured."""

Figures = dict[str, Any]


def measured(server: Process, repeat: int, **flags: object) -> Figures:
    """The best of some runs of `charloom bench`, with the CPU share of the server.

    Of arrivals, the run with the soonest first characters; otherwise the run with the most characters.
    """
    runs = []
    for _ in range(repeat):
        with CpuMeter(server) as meter:
            run = bench(server.target, **flags)
        run["server_cpu"], run["server_loop_cpu"] = meter.shares(run.pop("began"), run["seconds"])
        say(f"{flags}: {run}")
        runs.append(run)
    if flags["workload"] == "arrivals":
        return best(runs, lambda run: -float(run["ttfc_ms"]["p50"]))
    return best(runs, lambda run: float(run["chars_per_s"]))


def long_streams(server: Process, repeat: int, streams: int, tops: Figures) -> Figures:
    """Long streams, with the ratio to the ceiling."""
    length = 5 * LONG if streams == 1 else LONG
    found = measured(server, repeat, workload="long", streams=streams, rounds=LONG_ROUNDS, length=length)
    top = tops["single_row_chars_per_s" if streams == 1 else "ceiling_chars_per_s"]
    return found | {"ratio": round(found["chars_per_s"] / top, 3)}


def ceilings(*, int8: bool) -> Figures:
    """What the bare step does."""
    found = {
        "ceiling_chars_per_s": round(ceiling(int8=int8, threads=cores())),
        "single_row_chars_per_s": round(characters_per_second(int8=int8, rows=1, threads=1)),
    }
    say(f"{'int8' if int8 else 'fp32'}: {found}")
    return found


def measure_int8(bundle: Path, streams: list[int], repeat: int, probes: int) -> Figures:
    """All loads on the int8 decoder."""
    found: Figures = {"decoder": "onnx-int8"} | ceilings(int8=True)
    found |= step_microseconds(bundle, DecoderKind.ONNX_INT8)
    with serving(bundle, "--decoder", "onnx-int8") as server:
        found["streams"] = {str(n): long_streams(server, repeat, n, found) for n in streams}
        found["short_calls"] = {
            str(BUSY): measured(server, repeat, workload="short", streams=BUSY, rounds=SHORT_ROUNDS)
        }
        found["arrivals"] = {
            str(n): measured(server, repeat, workload="arrivals", streams=n, probes=probes) for n in (BUSY, 0)
        }
    found["ttfc_busy_ms"] = found["arrivals"][str(BUSY)]["ttfc_ms"]
    found["ttfc_idle_ms"] = found["arrivals"]["0"]["ttfc_ms"]
    return found


def measure_fp32(bundle: Path, repeat: int) -> Figures:
    """The ceiling and the long streams of the fp32 decoder."""
    found: Figures = ceilings(int8=False)
    with serving(bundle, "--decoder", "onnx-fp32") as server:
        return found | {"streams": {str(BUSY): long_streams(server, repeat, BUSY, found)}}


def measure_obvious(repeat: int) -> Figures:
    """The same loads on the obvious server; shorter streams, as they would take minutes."""
    with running("-m", "benchmarks.obvious") as server:
        return {
            str(BUSY): measured(server, repeat, workload="long", streams=BUSY, length=OBVIOUS_LONG),
            f"{BUSY} short": measured(server, repeat, workload="short", streams=BUSY),
        }


def table(found: Figures) -> list[tuple[object, ...]]:
    """The loads, a row each."""
    rows: list[tuple[object, ...]] = [
        ("load", "characters/s", "of the ceiling", "first character p50 / p99 ms", "gap p50 / p99 ms", "server CPU")
    ]
    loads = {f"{n} streams": load for n, load in found["streams"].items()}
    loads |= {f"{n} short calls": load for n, load in found["short_calls"].items()}
    loads |= {f"arrivals, {n} streams": load for n, load in found["arrivals"].items()}
    loads |= {f"fp32, {n} streams": load for n, load in found.get("fp32", {}).get("streams", {}).items()}
    loads |= {f"obvious, {n}": load for n, load in found["obvious"].items()}
    for name, load in loads.items():
        times = shown_times(load["ttfc_ms"]), shown_times(load["gap_ms"])
        rows.append((name, load["chars_per_s"], load.get("ratio", "-"), *times, load["server_cpu"]))
    return rows


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--streams", type=counts, default=[1, 4, 16, 64, 256], help="numbers of streams (default: 1,4,16,64,256)"
    )
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of a load, the best counts (default: 3)")
    parser.add_argument("--probes", type=at_least_one, default=200, help="single calls among others (default: 200)")
    parser.add_argument("--no-fp32", action="store_true", help="leave the fp32 decoder out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        found = measure_int8(bundle, arguments.streams, arguments.repeat, arguments.probes)
        if not arguments.no_fp32:
            found["fp32"] = measure_fp32(bundle, arguments.repeat)
    found["obvious"] = measure_obvious(arguments.repeat)
    found["speedup_64"] = None
    if str(BUSY) in found["streams"]:
        ours, theirs = (loads[str(BUSY)]["chars_per_s"] for loads in (found["streams"], found["obvious"]))
        found["speedup_64"] = round(ours / theirs, 1)
    found["hardware"] = hardware()
    finish(found, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
