"""Short calls, 32 characters of prompt and 64 generated, against what the decoder alone does on this machine.

    python -m benchmarks.short_calls [--clients 64] [--rounds 3] [--repeat 3] [--against PYTHON] [--json]

Over gRPC, server and client are processes of their own on this machine; in process, clients, calls and loom are one
process without gRPC (`benchmarks.engine_calls`). Everything is run by turns, `--repeat` times. The last line is one
JSON object. In it:

- "ratio" is row-steps per second over gRPC to those of the bare decoder step on all cores, which is timed before and
  after each run: a machine that others use too changes its speed from one minute to the next. "shared_stream_ratio" is
  the same where the calls of a connection share one stream (GenerateMany), "in_process_ratio" the same in process. They
  are those of the run with the highest, and with "_median" those of the middle one. A row-step is one step of one
  session; a call has 96. All are of the largest number of clients, as are "ttfc_ms" and "messages_per_call".
- "clients" has everything by the number of clients. "loop_ms", "server_ms" and "client_ms" are milliseconds of
  processor time for each call: of the thread of the server's event loop, of the whole server, and of the client.
- "idle" has single calls on an idle server, one after the other: "ttfc_ms" is their first character, "way_ms" what that
  took longer than the server's own time to the first token.

`--against` names the Python of another environment, with another version of Charloom in it: its server and its engine
are measured by turns with ours, by the same clients, and its figures are under "against".
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.ceiling import characters_per_second
from benchmarks.processes import CpuMeter, Process, bench, cores, hardware, output_of, serving
from benchmarks.reporting import Figures, at_least_one, best_and_median, counts, finish, new_parser, say, shown_times
from charloom.cli.serving.load import SHORT_LENGTH, SHORT_PROMPT

STEPS = SHORT_PROMPT + SHORT_LENGTH
"""Decoder steps of one call."""
BARE_ROWS = 32
"""Of the bare step: as many as each of two workers has of 64."""
PROBES = 60
"""Single calls on an idle server."""

KINDS = ("grpc", "shared_stream", "in_process")


@dataclass
class Version:
    """One version of Charloom, and its runs by kind (of `KINDS`, or "idle") and number of clients."""

    name: str
    python: str
    bundle: Path
    """Of its own making: what a decoder takes may differ."""
    server: Process
    bare: Callable[[], float]
    """Times the bare step: row-steps per second on all cores at this moment."""
    kinds: Sequence[str] = KINDS
    """Those that it is measured in: an older one may have fewer."""
    runs: dict[tuple[str, int], list[Figures]] = field(default_factory=dict)

    def measure(self, clients: Sequence[int], rounds: int) -> None:
        """Everything once more."""
        for count in clients:
            over_grpc = partial(self._over_grpc, workload="short", streams=count, rounds=rounds)
            self._keep("grpc", count, over_grpc)
            if "shared_stream" in self.kinds:
                self._keep("shared_stream", count, partial(over_grpc, shared_stream=True))
            words = [str(self.bundle), "--clients", str(count), "--rounds", str(rounds), "--json"]
            in_process = partial(output_of, "-m", "benchmarks.engine_calls", *words, python=self.python)
            self._keep("in_process", count, in_process)
        probes = {"workload": "arrivals", "streams": 0, "probes": PROBES, "prompt": SHORT_PROMPT}
        self._keep("idle", 0, partial(self._over_grpc, **probes))

    def _over_grpc(self, **flags: Any) -> Figures:
        with CpuMeter(self.server) as meter:
            run = bench(self.server.target, **flags)
        run["server_cpu"], run["server_loop_cpu"] = meter.shares(run["began"], run["seconds"])
        return run

    def _keep(self, kind: str, clients: int, measured: Callable[[], Figures]) -> None:
        before, run = self.bare(), measured()
        run["bare_row_steps_per_s"] = round((before + self.bare()) / 2)
        self.runs.setdefault((kind, clients), []).append(run)
        say(f"{self.name}, {kind}, {clients} clients: {run}")


def figures_of(run: Figures) -> Figures:
    """What counts of a run of short calls: of the figures of `charloom bench`, with "bare_row_steps_per_s".

    Over gRPC they have "server_cpu" and "server_loop_cpu" too.
    """
    calls = run["calls_per_s"]
    each = {"loop_ms": "server_loop_cpu", "server_ms": "server_cpu", "client_ms": "client_cpu"}
    return {
        "ratio": round(calls * STEPS / run["bare_row_steps_per_s"], 3),
        "row_steps_per_s": round(calls * STEPS),
        "bare_row_steps_per_s": run["bare_row_steps_per_s"],
        "calls_per_s": calls,
        "ttfc_ms": run["ttfc_ms"],
        "messages_per_call": run["messages_per_call"],
    } | {name: round(1000 * run[cpu] / calls, 3) for name, cpu in each.items() if cpu in run}


def ranked(runs: Sequence[Figures]) -> Figures:
    """The figures of the run with the highest ratio, and of the middle one."""
    return best_and_median(map(figures_of, runs), lambda figures: float(figures["ratio"]))


def result(version: Version) -> Figures:
    """All figures of a version; see the text of this module."""
    clients: Figures = {}
    for kind, count in version.runs:
        if kind != "idle":
            clients.setdefault(str(count), {})[kind] = ranked(version.runs[kind, count])
    busiest = clients[max(clients, key=int)]
    ratios: Figures = {}
    for kind in (kind for kind in KINDS if kind in busiest):
        name = "ratio" if kind == "grpc" else f"{kind}_ratio"
        ratios[name], ratios[f"{name}_median"] = busiest[kind]["best"]["ratio"], busiest[kind]["median"]["ratio"]
    idle = min(version.runs["idle", 0], key=lambda run: float(run["way_ms"]["p50"]))
    return ratios | {
        "ttfc_ms": busiest["grpc"]["best"]["ttfc_ms"],
        "messages_per_call": busiest["grpc"]["best"]["messages_per_call"],
        "clients": clients,
        "idle": {name: idle[name] for name in ("ttfc_ms", "way_ms")},
    }


def table(found: Figures) -> list[tuple[object, ...]]:
    """A row for each version, kind and number of clients: its best run."""
    rows: list[tuple[object, ...]] = [
        ("", "calls/s", "ratio", "first character p50 / p99 ms", "messages", "loop ms", "server ms", "client ms")
    ]
    for name in ("ours", "against"):
        version = found if name == "ours" else found.get(name, {"clients": {}})
        for count, kinds in version["clients"].items():
            for kind, runs in kinds.items():
                one = runs["best"]
                shown = one["calls_per_s"], one["ratio"], shown_times(one["ttfc_ms"]), one["messages_per_call"]
                used = (one.get(key, "-") for key in ("loop_ms", "server_ms", "client_ms"))
                rows.append((f"{name}, {kind}, {count} clients", *shown, *used))
        if "idle" in version:
            way = f"{shown_times(version['idle']['ttfc_ms'])}, {shown_times(version['idle']['way_ms'])} of it the way"
            rows.append((f"{name}, idle", "-", "-", way, *["-"] * 4))
    return rows


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--clients", type=counts, default=[64], help="sessions at a time (default: 64; or 1,4,16,64)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions of each client in a run (default: 3)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of each load (default: 3)")
    parser.add_argument("--against", metavar="PYTHON", help="the Python of another version, to be measured by turns")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = partial(characters_per_second, int8=True, rows=BARE_ROWS, threads=cores())
        pythons = {"ours": sys.executable} | ({"against": arguments.against} if arguments.against else {})
        versions = []
        for name, python in pythons.items():
            bundle = folder / name
            subprocess.run([python, "-m", "benchmarks.reference", str(bundle)], check=True)
            server = stack.enter_context(serving(bundle, "--decoder", "onnx-int8", python=python))
            kinds = KINDS if name == "ours" else ("grpc", "in_process")
            versions.append(Version(name, python, bundle, server, bare, kinds))
        for _ in range(arguments.repeat):
            for version in versions:
                version.measure(arguments.clients, arguments.rounds)
    found = result(versions[0]) | {"hardware": hardware()}
    if arguments.against:
        found["against"] = result(versions[1])
    finish(found, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
