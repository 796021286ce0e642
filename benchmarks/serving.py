"""Throughput and latency through real gRPC, as ratios to what the decoder alone does on this machine.

    python -m benchmarks.serving [--streams 1,4,16,64,256] [--repeat 3] [--minutes 10] [--no-fp32] [--json]

Server and client are processes of their own, on this machine. The last line is one JSON object. In it, "ratio" is to
the bare decoder step on all cores, with as many rows as were fastest at the beginning; at one stream to the bare step
with one row on one core. It is timed before and after each run of long streams, "bare_chars_per_s" being the mean: a
machine that others use too changes its speed from one minute to the next. "ceiling_chars_per_s" and
"single_row_chars_per_s" are the same at the beginning. "step_us" and "bare_step_us" are microseconds of one step of all
rows, by the number of rows, on one core. "ttfc_busy_ms" is the time to the first character of single calls among 64
long streams, "ttfc_idle_ms" the same on an idle server. "server_cpu" and "client_cpu" are cores; "server_loop_cpu" is
the part of the server's event loop.

The loads are run by turns, the most important ones first, and the best of their runs count; "runs" is how many a load
had. After `--minutes` nothing more is begun, and a load that runs then is broken off; only the int8 ceiling is always
there. What was not reached is named in "not_reached", and its figures are null or missing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.ceiling import ceiling, characters_per_second, step_microseconds
from benchmarks.processes import CpuMeter, Process, bench, cores, hardware, running, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import (
    Budget,
    Figures,
    at_least_one,
    best,
    counts,
    finish,
    new_parser,
    say,
    shown_times,
    some_minutes,
)
from charloom.bundle import DecoderKind

LONG, LONG_ROUNDS, SHORT_ROUNDS, OBVIOUS_LONG = 1000, 8, 3, 50
BUSY = 64
"""Streams at which everything is measured."""


@dataclass
class Load:
    """What is done to a server, some times, and what came of it."""

    place: tuple[str, ...]
    """Where its figures are in the result."""
    server: Process
    flags: Figures
    """Of `charloom bench`."""
    bare: Callable[[], float] | None = None
    """Times the bare step that its "ratio" is to: characters per second at this moment."""
    runs: list[Figures] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(self.place)

    def run(self, budget: Budget) -> None:
        """Once more, with the CPU share of the server, unless the time is over before it ends."""
        if not budget.seconds:
            return
        before = self.bare() if self.bare is not None else 0.0
        try:
            with CpuMeter(self.server) as meter:
                run = bench(self.server.target, within=budget.seconds, **self.flags)
        except TimeoutError:
            say(f"{self.name}: broken off, the time is over")
            return
        if self.bare is not None:
            bare = (before + self.bare()) / 2
            run |= {"bare_chars_per_s": round(bare), "ratio": round(run["chars_per_s"] / bare, 3)}
        run["server_cpu"], run["server_loop_cpu"] = meter.shares(run.pop("began"), run["seconds"])
        self.runs.append(run)
        say(f"{self.name}, run {len(self.runs)}, {budget.seconds / 60:.1f} minutes are left: {run}")

    def figures(self) -> Figures:
        """Of the best run: with the highest ratio, the most characters, or of arrivals the soonest first characters."""
        if self.flags["workload"] == "arrivals":
            found = best(self.runs, lambda run: -float(run["ttfc_ms"]["p50"]))
        else:
            ranked = "chars_per_s" if self.bare is None else "ratio"
            found = best(self.runs, lambda run: float(run[ranked]))
        return found | {"runs": len(self.runs)}


def long_streams(place: tuple[str, ...], server: Process, streams: int, tops: Figures, *, int8: bool) -> Load:
    """Long streams, with the ratio to the bare step."""
    length = 5 * LONG if streams == 1 else LONG
    flags = {"workload": "long", "streams": streams, "rounds": LONG_ROUNDS, "length": length}
    rows, threads = (1, 1) if streams == 1 else (tops["ceiling_rows"], cores())
    bare = partial(characters_per_second, int8=int8, rows=rows, threads=threads)
    return Load((*place, "streams", str(streams)), server, flags, bare)


def ceilings(*, int8: bool) -> Figures:
    """What the bare step does."""
    rows, speed = ceiling(int8=int8, threads=cores())
    found = {
        "ceiling_chars_per_s": round(speed),
        "ceiling_rows": rows,
        "single_row_chars_per_s": round(characters_per_second(int8=int8, rows=1, threads=1)),
    }
    say(f"{'int8' if int8 else 'fp32'}: {found}")
    return found


def int8_loads(server: Process, streams: Sequence[int], probes: int, tops: Figures) -> tuple[list[Load], list[Load]]:
    """The loads on the int8 decoder: those that matter most, and the others."""
    busy = str(BUSY)
    short = Load(("short_calls", busy), server, {"workload": "short", "streams": BUSY, "rounds": SHORT_ROUNDS})
    arrivals = [
        Load(("arrivals", str(n)), server, {"workload": "arrivals", "streams": n, "probes": probes}) for n in (BUSY, 0)
    ]
    first = [long_streams((), server, n, tops, int8=True) for n in streams if n == BUSY]
    others = [long_streams((), server, n, tops, int8=True) for n in streams if n != BUSY]
    return [*first, short, *arrivals], others


def obvious_loads(server: Process) -> list[Load]:
    """The same loads on the obvious server; shorter streams, as they would take minutes."""
    busy = {"streams": BUSY}
    return [
        Load(("obvious", str(BUSY)), server, {"workload": "long", "length": OBVIOUS_LONG} | busy),
        Load(("obvious", f"{BUSY} short"), server, {"workload": "short"} | busy),
    ]


def run_all(loads: Sequence[Load], budget: Budget) -> None:
    """Each of them once more, as far as the time goes."""
    for load in loads:
        load.run(budget)


def result(loads: Sequence[Load], found: Figures, missing: Sequence[str] = ()) -> Figures:
    """What was found before, and the figures of the loads; with the names of what there was no time for."""
    empty: Figures = {"streams": {}, "short_calls": {}, "arrivals": {}, "obvious": {}}
    found = empty | found
    for load in sorted(loads, key=lambda load: int(load.flags["streams"])):
        *folders, last = load.place
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        if load.runs:
            place[last] = load.figures()
    for name, streams in (("busy", BUSY), ("idle", 0)):
        found[f"ttfc_{name}_ms"] = found["arrivals"].get(str(streams), {}).get("ttfc_ms")
    ours, theirs = (loads.get(str(BUSY)) for loads in (found["streams"], found["obvious"]))
    found["speedup_64"] = round(ours["chars_per_s"] / theirs["chars_per_s"], 1) if ours and theirs else None
    found["not_reached"] = [load.name for load in loads if not load.runs] + [*missing]
    return found


def table(found: Figures) -> list[tuple[object, ...]]:
    """The loads, a row each."""
    times = "first character p50 / p99 ms", "gap p50 / p99 ms"
    rows: list[tuple[object, ...]] = [("load", "characters/s", "of the bare step", *times, "server CPU", "runs")]
    loads = {f"{n} streams": load for n, load in found["streams"].items()}
    loads |= {f"{n} short calls": load for n, load in found["short_calls"].items()}
    loads |= {f"arrivals, {n} streams": load for n, load in found["arrivals"].items()}
    loads |= {f"fp32, {n} streams": load for n, load in found.get("fp32", {}).get("streams", {}).items()}
    loads |= {f"obvious, {n}": load for n, load in found["obvious"].items()}
    for name, load in loads.items():
        times = shown_times(load["ttfc_ms"]), shown_times(load["gap_ms"])
        rows.append((name, load["chars_per_s"], load.get("ratio", "-"), *times, load["server_cpu"], load["runs"]))
    rows += [(f"not reached: {name}", *["-"] * (len(rows[0]) - 1)) for name in found["not_reached"]]
    return rows


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--streams", type=counts, default=[1, 4, 16, 64, 256], help="numbers of streams (default: 1,4,16,64,256)"
    )
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of a load, the best counts (default: 3)")
    parser.add_argument("--probes", type=at_least_one, default=200, help="single calls among others (default: 200)")
    parser.add_argument("--minutes", type=some_minutes, default=10.0, help="when to stop (default: after 10)")
    parser.add_argument("--no-fp32", action="store_true", help="leave the fp32 decoder out")
    arguments = parser.parse_args()
    budget = Budget(arguments.minutes)
    with ExitStack() as stack:
        bundle = write_reference_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "reference")
        found: Figures = {"decoder": "onnx-int8"} | ceilings(int8=True)
        missing: list[str] = []
        ours = stack.enter_context(serving(bundle, "--decoder", "onnx-int8"))
        loads, others = int8_loads(ours, arguments.streams, arguments.probes, found)
        loads += obvious_loads(stack.enter_context(running("-m", "benchmarks.obvious")))
        run_all(loads, budget)
        if not arguments.no_fp32 and budget.seconds:
            found["fp32"] = ceilings(int8=False) | {"streams": {}}
            fp32 = stack.enter_context(serving(bundle, "--decoder", "onnx-fp32"))
            others.insert(0, long_streams(("fp32",), fp32, BUSY, found["fp32"], int8=False))
        elif not arguments.no_fp32:
            missing.append("fp32")
        run_all(others, budget)
        if budget.seconds:
            found |= step_microseconds(bundle, DecoderKind.ONNX_INT8)
        else:
            missing.append("step_us")
        loads += others
        for _ in range(arguments.repeat - 1):
            run_all(loads, budget)
    found = result(loads, found, missing) | {"minutes": arguments.minutes, "hardware": hardware()}
    finish(found, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
