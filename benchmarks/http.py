"""What streams over HTTP carry against those over gRPC, and what the listener costs those over gRPC.

    python -m benchmarks.http [--streams 64] [--rounds 8] [--repeat 3] [--json]

Two servers of the reference bundle, one with an HTTP port and one without, and their clients are processes of their own
on this machine. The loads are run by turns; the best of their runs count. The last line is one JSON object. In it,
"ratio" is characters per second over HTTP to those over gRPC of the same server, "listener_ratio" those over gRPC of
the server that has an HTTP port to those of the one that has none; with "_median" those of the runs in the middle.
"server_loop_cpu" and "client_cpu" are cores.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import CpuMeter, Process, bench, free_ports, hardware, output_of, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import Figures, at_least_one, best, finish, new_parser, say

LENGTH = 1000
"""Characters of a stream."""


def measured(server: Process, http: str | None, streams: int, rounds: int) -> Figures:
    """A run over gRPC, or over HTTP at this address."""
    flags = {"streams": streams, "rounds": rounds, "length": LENGTH}
    with CpuMeter(server) as meter:
        if http is None:
            run = bench(server.target, workload="long", **flags)
        else:
            words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
            run = output_of("-m", "benchmarks.http_load", http, *words, "--json")
    run["server_cpu"], run["server_loop_cpu"] = meter.shares(run.pop("began"), run["seconds"])
    kept = ("chars_per_s", "seconds", "server_cpu", "server_loop_cpu", "client_cpu")
    return {name: run[name] for name in kept}


def result(runs: dict[str, list[Figures]]) -> Figures:
    """The best runs of "http", "grpc" and "grpc_alone", and their ratios."""
    speeds = {name: [run["chars_per_s"] for run in found] for name, found in runs.items()}
    ratios: Figures = {}
    for suffix, of in (("", max), ("_median", statistics.median)):
        speed = {name: float(of(found)) for name, found in speeds.items()}
        ratios[f"ratio{suffix}"] = round(speed["http"] / speed["grpc"], 3)
        ratios[f"listener_ratio{suffix}"] = round(speed["grpc"] / speed["grpc_alone"], 3)
    return ratios | {name: best(found, lambda run: float(run["chars_per_s"])) for name, found in runs.items()}


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--streams", type=at_least_one, default=64, help="clients at a time (default: 64)")
    parser.add_argument("--rounds", type=at_least_one, default=8, help="streams of each, one by one (default: 8)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of each load (default: 3)")
    arguments = parser.parse_args()
    (port,) = free_ports(1)
    runs: dict[str, list[Figures]] = {"http": [], "grpc": [], "grpc_alone": []}
    with ExitStack() as stack:
        bundle = write_reference_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "reference")
        both = stack.enter_context(serving(bundle, "--http-port", str(port)))
        alone = stack.enter_context(serving(bundle))
        loads = (("http", both, f"127.0.0.1:{port}"), ("grpc", both, None), ("grpc_alone", alone, None))
        for _ in range(arguments.repeat):
            for name, server, http in loads:
                run = measured(server, http, arguments.streams, arguments.rounds)
                runs[name].append(run)
                say(f"{name}: {run}")
    found = result(runs) | {"streams": arguments.streams, "hardware": hardware()}
    table: list[tuple[object, ...]] = [("load", "characters/s", "server CPU", "event loop", "client CPU")]
    for name in runs:
        one = found[name]
        table.append((name, one["chars_per_s"], one["server_cpu"], one["server_loop_cpu"], one["client_cpu"]))
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
