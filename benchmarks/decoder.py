"""What a step of the decoder costs, generating and reading, beside the bare step of the network. Needs no server.

    python -m benchmarks.decoder [--json] [--decoder KIND] [--rows 1,4,32,64] [--rounds 9] [--against BUNDLE]

One thread. Everything is timed by turns, in an order of its own in each round, in processor time, which does not count
that the machine did something else in between; so ratios can be compared where times cannot. A ratio is the median of
the rounds' ratios. With `--against`, the decoders of another bundle of the reference artifact, such as one that an
earlier version wrote, are timed in the same rounds.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ceiling import STEPS, bare_step
from benchmarks.processes import hardware
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, counts, finish, new_parser, say
from charloom.bundle import DecoderKind
from charloom.engine.decoding.invariance import generating_inputs, reading_inputs
from charloom.engine.decoding.onnx_decoder import OnnxDecoder

SECONDS = 0.03
"""Of processor time that each one takes in a round, at least."""
KINDS = (DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32)

Call = tuple[Callable[[], object], int]
"""A call and how many steps it takes."""


def main() -> None:
    """Run the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("--decoder", type=DecoderKind, choices=KINDS, help="onnx-int8 or onnx-fp32; both if not given")
    parser.add_argument("--rows", type=counts, default=[1, 4, 32, 64], help="numbers of rows")
    parser.add_argument("--rounds", type=at_least_one, default=9, help="how often each one is timed")
    parser.add_argument("--against", type=Path, metavar="BUNDLE", help="other decoders to time by turns with these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bundles = {"": write_reference_bundle(Path(directory) / "bundle")}
        if options.against:
            bundles["earlier_"] = options.against
        found: dict[str, Any] = {"hardware": hardware(), "steps": STEPS, "rounds": options.rounds}
        kinds = (options.decoder,) if options.decoder else KINDS
        for kind in kinds:
            found[kind.value] = {}
            for rows in options.rows:
                found[kind.value][str(rows)] = compared(calls_of(bundles, kind, rows), options.rounds)
                say(f"{kind.value}, {rows} rows: {found[kind.value][str(rows)]}")
    table: list[list[object]] = [["decoder", "rows", "what", "us a step", "bare / this", "this / generating"]]
    for kind in kinds:
        for rows, figures in found[kind.value].items():
            for what, each in figures.items():
                table.append([kind.value, rows, what, each["us"], each["of_bare"], each["to_generating"]])
    finish(found, table, only_json=options.json)


def calls_of(bundles: dict[str, Path], kind: DecoderKind, rows: int) -> dict[str, Call]:
    """What is timed: the bare step, and decoders that generate or read, their names with what stands for the bundle."""
    calls: dict[str, Call] = {"bare": (bare_step(int8=kind is DecoderKind.ONNX_INT8, rows=rows), 1)}
    for name, bundle in bundles.items():
        decoder = OnnxDecoder(bundle / kind.file, kind.value)
        for what, inputs in (
            ("generating", generating_inputs(decoder, rows, STEPS)),
            ("reading", reading_inputs(decoder, rows, STEPS)),
        ):
            calls[name + what] = (partial(decoder.run, inputs), STEPS)
    return calls


def compared(calls: dict[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """By name: median microseconds a step, and medians of the ratios within a round."""
    repeats = {name: _repeats(call) for name, (call, _) in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            call, steps = calls[name]
            times[name].append(_seconds(call, repeats[name]) / repeats[name] / steps)

    def ratio(above: str, below: str) -> float:
        return round(median(one / other for one, other in zip(times[above], times[below], strict=True)), 3)

    return {
        name: {
            "us": round(1e6 * median(own), 1),
            "of_bare": ratio("bare", name),
            "to_generating": ratio(name, "generating"),
        }
        for name, own in times.items()
    }


def _repeats(call: Callable[[], object]) -> int:
    """How many calls take `SECONDS`; the first ones, which take memory, do not count."""
    for _ in range(2):
        call()
    return max(1, round(SECONDS / max(_seconds(call, 1), 1e-6)))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    began = time.thread_time()
    for _ in range(repeats):
        call()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
