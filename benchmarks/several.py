"""One process of `charloom serve` against several, on the same cores: short calls and long streams, by turns.

    python -m benchmarks.several [--processes 2] [--streams 64] [--connections 16] [--rounds 3] [--repeat 3] [--json]

Servers with the bundle of `benchmarks.reference`, each with a store of its own: one process with sessions in memory, in
a SQLite file and in Redis, and several with the latter two. Each is loaded by `charloom bench` over gRPC, in a process
of its own on this machine, `--repeat` times by turns. The system gives each connection to one of the processes by
chance, so that they are about even only where there are many connections.

The last line is one JSON object: for each server and load, the best run and the median one, by calls or characters per
second. "loop_ms" and "server_ms" are milliseconds of processor time for each call, of the threads of the event loops
and of all threads of all processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import CpuMeter, Process, bench, hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import Figures, at_least_one, best_and_median, finish, names_of, new_parser, say, shown_times
from benchmarks.state import STORES, store_url

LOADS: dict[str, str] = {"short": "calls_per_s", "long": "chars_per_s"}
"""Workloads of `charloom bench`, and the figure that counts."""


def figures_of(run: Figures, workload: str) -> Figures:
    """What counts of a run of `charloom bench`, which has "server_cpu" and "server_loop_cpu" too."""
    found: Figures = {name: run[name] for name in (LOADS[workload], "ttfc_ms", "gap_ms")}
    if workload == "short":
        cpu = {"loop_ms": "server_loop_cpu", "server_ms": "server_cpu"}
        found |= {name: round(1000 * run[of] / run["calls_per_s"], 3) for name, of in cpu.items()}
    return found


def ranked(runs: Sequence[Figures], workload: str) -> Figures:
    """The best run and the middle one."""
    return best_and_median((figures_of(run, workload) for run in runs), lambda found: float(found[LOADS[workload]]))


def measure(server: Process, workload: str, arguments: argparse.Namespace) -> Figures:
    """One run."""
    flags = {"streams": arguments.streams, "connections": arguments.connections, "rounds": arguments.rounds}
    with CpuMeter(server) as meter:
        run = bench(server.target, workload=workload, **flags | ({"rounds": 1} if workload == "long" else {}))
    run["server_cpu"], run["server_loop_cpu"] = meter.shares(run["began"], run["seconds"])
    return run


def table(servers: dict[str, dict[str, Figures]]) -> list[tuple[object, ...]]:
    """A row for each server and load: its best run, and what counts of the median one."""
    rows: list[tuple[object, ...]] = [
        ("processes, store", "load", "best /s", "median /s", "first character p50 / p99 ms", "loop ms", "server ms")
    ]
    for name, loads in servers.items():
        for workload, runs in loads.items():
            top, middle, of = runs["best"], runs["median"], LOADS[workload]
            used = (top.get(key, "-") for key in ("loop_ms", "server_ms"))
            rows.append((name, workload, top[of], middle[of], shown_times(middle["ttfc_ms"]), *used))
    return rows


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--processes", type=at_least_one, default=2, help="how many several are (default: 2)")
    parser.add_argument("--streams", type=at_least_one, default=64, help="clients at a time (default: 64)")
    parser.add_argument("--connections", type=at_least_one, default=16, help="of these clients (default: 16)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions of each client in a run (default: 3)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of each load (default: 3)")
    parser.add_argument("--loads", type=names_of(LOADS), default=[*LOADS], help="short, long, or both (default: both)")
    arguments = parser.parse_args()
    runs: dict[str, dict[str, list[Figures]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = write_reference_bundle(folder / "bundle")
        servers: dict[str, Process] = {}
        for processes in (1, arguments.processes):
            for kind in STORES:
                if kind == "memory" and processes > 1:
                    continue
                own = folder / f"{kind}-{processes}"
                own.mkdir()
                store = stack.enter_context(store_url(kind, own))
                flags = ["--store", store, "--processes", str(processes), "--decoder", "onnx-int8"]
                servers[f"{processes}, {kind}"] = stack.enter_context(serving(bundle, *flags))
        for workload in arguments.loads:
            for _ in range(arguments.repeat):
                for name, server in servers.items():
                    run = measure(server, workload, arguments)
                    runs.setdefault(name, {}).setdefault(workload, []).append(run)
                    say(f"{name}, {workload}: {run}")
    found = {name: {workload: ranked(of, workload) for workload, of in loads.items()} for name, loads in runs.items()}
    finish({"servers": found, "hardware": hardware()}, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
