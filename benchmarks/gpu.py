"""The decoder that keeps state and sampling on a CUDA device: alone, and through real gRPC.

    python -m benchmarks.gpu [--rows 1,16,64,256,1024] [--streams 64,256,1024] [--device cuda|cpu] [--json]

With `--device cpu` the same code runs without graphs, which shows that it works and nothing more. The client runs on
this machine too. The last line is one JSON object.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import bench, hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, best, counts, finish, new_parser, say
from charloom.bundle import DecoderKind
from charloom.engine.decoding.device_decoder import DeviceDecoder
from charloom.engine.decoding.invariance import is_batch_invariant, plain_inputs, random_inputs

STEPS, SECONDS = 64, 2.0
ROUNDS = 3


def decoder_figures(decoder: DeviceDecoder, rows: int) -> dict[str, float]:
    """Microseconds per step of all rows and characters/s, without and with filters and penalties on every row."""
    found: dict[str, float] = {}
    for name, make in (("plain", plain_inputs), ("full", random_inputs)):
        inputs = make(decoder, rows, STEPS)
        pool = decoder.state_pool()
        state = pool.gather([pool.take(inputs.state[:, :, row]) for row in range(rows)])
        inputs = inputs._replace(state=state)  # type: ignore[arg-type]  # it stays on the device
        for _ in range(3):
            decoder.run(inputs)
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            decoder.run(inputs)
            calls += 1
        seconds = (time.perf_counter() - began) / (calls * STEPS)
        found |= {f"{name}_step_us": round(seconds * 1e6, 1), f"{name}_chars_per_s": round(rows / seconds)}
    say(f"{rows} rows: {found}")
    return found


def device_name(device: str) -> str:
    """The GPU beside the processor."""
    return f"{torch.cuda.get_device_name()}, {hardware()}" if device == "cuda" else hardware()


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--rows", type=counts, default=[1, 16, 64, 256, 1024], help="rows of the decoder alone")
    parser.add_argument("--streams", type=counts, default=[64, 256, 1024], help="numbers of gRPC streams")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of a load, the best counts (default: 3)")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; with --device cpu the same code runs there")
    found: dict[str, Any] = {"device": device, "hardware": device_name(device), "decoder": {}, "streams": {}}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference", torchscript=True)
        decoder = DeviceDecoder(bundle / DecoderKind.TORCHSCRIPT.file, device)
        found["batch_invariant"] = is_batch_invariant(decoder, max(arguments.rows))
        found["decoder"] = {str(rows): decoder_figures(decoder, rows) for rows in arguments.rows}
        with serving(bundle, "--decoder", "torchscript", "--device", device, "--max-rows", "1024") as server:
            for streams in arguments.streams:
                runs = [
                    bench(server.target, workload="long", streams=streams, rounds=ROUNDS)
                    for _ in range(arguments.repeat)
                ]
                found["streams"][str(streams)] = best(runs, lambda run: float(run["chars_per_s"]))
                say(f"{streams} streams: {found['streams'][str(streams)]}")
    table: list[tuple[object, ...]] = [("rows", "step us", "characters/s", "with filters: step us", "characters/s")]
    table += [(rows, *figures.values()) for rows, figures in found["decoder"].items()]
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
