"""The decoder that keeps state and sampling on a CUDA device: alone, and through real gRPC.

    python -m benchmarks.gpu [--rows 1,16,64,256,1024] [--streams 64,256,1024] [--only PART ...] [--device cuda|cpu]
                             [--bundle DIRECTORY] [--out FILE] [--json]

Its parts: "invariance", whether rows are independent of each other, bit for bit; "decoder", microseconds per step of
all rows and characters/s, without and with filters and penalties on every row; "layouts", the same for other ways to
divide a call ("64x4" is parts of 64 rows, four on the device at a time); "profile", which kernels take the time;
"streams", `charloom bench` with the client on this machine.

With `--device cpu` the same code runs without graphs, which shows that it works and nothing more. What fails has
"failed" in the place of its figures, and the others go on. The last line is one JSON object; with `--out` it is written
to a file too, after each figure, so that a run that is broken off leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_report import Figures, problems, table
from benchmarks.processes import bench, hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, best, counts, finish, new_parser, say
from charloom.bundle import DecoderKind
from charloom.engine.decoding.decoder import Inputs
from charloom.engine.decoding.device_decoder import LANES, ROWS, DeviceDecoder
from charloom.engine.decoding.invariance import is_batch_invariant, plain_inputs, random_inputs

PARTS = ("invariance", "decoder", "layouts", "profile", "streams")
LAYOUTS = ((64, 1), (64, 4), (256, 1), (256, 4), (1024, 1))
"""Rows of a part of a call, and parts that are on the device at a time."""
WARM_UPS, PROFILED_CALLS, KERNELS = 3, 3, 15
LOAD_CHARACTERS, LONGEST, SHORTEST = 500_000, 1000, 100
"""Of a load with gRPC: about so many in all, and of one stream at most and at least."""
LOAD_SECONDS = 60.0
MOST_PROFILED = 1024
"""Rows of what is profiled, and tried with other layouts."""


class Found:
    """The figures so far.

    Args:
        figures: what is known before any was measured
        file: where they are kept, if anywhere
    """

    def __init__(self, figures: Figures, file: Path | None = None) -> None:
        self.figures, self._file = figures, file

    def add(self, part: str, name: str, measure: Callable[[], Any]) -> None:
        """Measure one figure and keep it; or, if that raises, what was raised."""
        try:
            value = measure()
        except Exception as problem:
            traceback.print_exc()
            value = {"failed": f"{type(problem).__name__}: {problem}"[:500]}
        self.figures.setdefault(part, {})[name] = value
        say(f"{part} {name}: {value}")
        if self._file is not None:
            self._file.write_text(json.dumps(self.figures), "utf-8")


def on_device(decoder: DeviceDecoder, inputs: Inputs) -> Inputs:
    """The inputs with their state where a loom has it."""
    pool = decoder.state_pool()
    state = pool.gather([pool.take(inputs.state[:, :, row]) for row in range(len(inputs.token))])
    return inputs._replace(state=state)  # type: ignore[arg-type]


def decoder_figures(decoder: DeviceDecoder, rows: int, steps: int, seconds: float, *, full: bool) -> Figures:
    """Microseconds per step of all rows and characters/s, plain, and with filters and penalties if that is wanted."""
    found: Figures = {}
    for name, make in (("plain", plain_inputs), ("full", random_inputs))[: 1 + full]:
        inputs = on_device(decoder, make(decoder, rows, steps))
        for _ in range(WARM_UPS):
            decoder.run(inputs)
        calls, began = 0, time.perf_counter()
        while not calls or time.perf_counter() - began < seconds:
            decoder.run(inputs)
            calls += 1
        step = (time.perf_counter() - began) / (calls * steps)
        found |= {f"{name}_step_us": round(step * 1e6, 1), f"{name}_chars_per_s": round(rows / step)}
    return found


def kernel_times(decoder: DeviceDecoder, rows: int, steps: int) -> Figures:
    """Which kernels (on the CPU: operators) take how many microseconds of a step, the longest first."""
    inputs = on_device(decoder, plain_inputs(decoder, rows, steps))
    for _ in range(WARM_UPS):
        decoder.run(inputs)
    cuda = decoder.device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        for _ in range(PROFILED_CALLS):
            decoder.run(inputs)
    taken = PROFILED_CALLS * steps
    kernels = [
        {
            "name": event.key[:120],
            "per_step": round(event.count / taken, 2),
            "us_per_step": round((event.self_device_time_total if cuda else event.self_cpu_time_total) / taken, 2),
        }
        for event in profiled.key_averages()
        if event.device_type.name == ("CUDA" if cuda else "CPU")
    ]
    kernels.sort(key=lambda kernel: -float(kernel["us_per_step"]))
    return {
        "us_per_step": round(sum(float(kernel["us_per_step"]) for kernel in kernels), 1),
        "kernels_per_step": round(sum(float(kernel["per_step"]) for kernel in kernels), 1),
        "kernels": kernels[:KERNELS],
    }


def load_figures(target: str, streams: int, repeat: int) -> Figures:
    """The best of some runs of a load; with more streams they are shorter, so that all take about as long."""
    length = max(SHORTEST, min(LONGEST, LOAD_CHARACTERS // streams))
    runs = [bench(target, within=LOAD_SECONDS, workload="long", streams=streams, length=length) for _ in range(repeat)]
    return best(runs, lambda run: float(run["chars_per_s"])) | {"length": length}


def device_name(device: str) -> str:
    """The GPU beside the processor."""
    return f"{torch.cuda.get_device_name()}, {hardware()}" if device == "cuda" else hardware()


def measure_decoder(found: Found, file: Path, arguments: argparse.Namespace) -> None:
    """All that needs no server."""
    wanted, rows, steps = arguments.only, arguments.rows, arguments.steps
    ends = min(rows), max(row for row in rows if row <= MOST_PROFILED or row == min(rows))
    decoder = DeviceDecoder(file, arguments.device, arguments.part_rows)
    for n in rows if "invariance" in wanted else ():
        found.add("invariance", str(n), partial(is_batch_invariant, decoder, n))
    for n in rows if "decoder" in wanted else ():
        found.add("decoder", str(n), partial(decoder_figures, decoder, n, steps, arguments.seconds, full=True))
    for part_rows, lanes in LAYOUTS if "layouts" in wanted else ():
        other = DeviceDecoder(file, arguments.device, part_rows, lanes=lanes)
        for n in ends:
            name = f"{n} rows as {part_rows}x{lanes}"
            found.add("layouts", name, partial(decoder_figures, other, n, steps, arguments.seconds, full=False))
    for n in ends if "profile" in wanted else ():
        found.add("profile", str(n), partial(kernel_times, decoder, n, steps))


def measure_streams(found: Found, bundle: Path, arguments: argparse.Namespace) -> None:
    """What needs a server: streams over gRPC."""
    most = max(1024, *arguments.streams)
    limits = {"max-rows": most, "max-waiting": 2 * most, "max-calls": 2 * most, "max-streams": most}
    flags = [word for name, value in limits.items() for word in (f"--{name}", str(value))]
    with serving(bundle, "--decoder", "torchscript", "--device", arguments.device, *flags) as server:
        for n in arguments.streams:
            found.add("streams", str(n), partial(load_figures, server.target, n, arguments.repeat))


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--rows", type=counts, default=[1, 16, 64, 256, 1024], help="rows of the decoder alone")
    parser.add_argument("--streams", type=counts, default=[64, 256, 1024], help="numbers of gRPC streams")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of a load, the best counts (default: 3)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    parser.add_argument("--part-rows", type=at_least_one, default=ROWS, help=f"rows of a part (default: {ROWS})")
    parser.add_argument("--steps", type=at_least_one, default=64, help="steps of a decoder call (default: 64)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure of the decoder (default: 2)")
    parser.add_argument("--bundle", type=Path, help="a reference bundle (default: one is written)")
    parser.add_argument("--out", type=Path, help="a file that the figures are written to as well")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; with --device cpu the same code runs there")
    known = {"device": arguments.device, "hardware": device_name(arguments.device), "torch": torch.__version__}
    found = Found(known | {"part_rows": arguments.part_rows, "lanes": LANES}, arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or write_reference_bundle(Path(folder) / "reference", torchscript=True)
        if {*arguments.only} - {"streams"}:
            measure_decoder(found, bundle / DecoderKind.TORCHSCRIPT.file, arguments)
        if "streams" in arguments.only:
            measure_streams(found, bundle, arguments)
    wrong = problems(found.figures)
    for problem in wrong:
        say(problem)
    finish(found.figures, table(found.figures), only_json=arguments.json)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
