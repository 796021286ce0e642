"""Throughput and latency through real gRPC, as ratios to what the decoder alone does on this machine.

    python -m benchmarks.serving [--streams 1,4,16,64,256] [--decoder onnx-int8|onnx-fp32]

Server and client are processes of their own, on this machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ceiling import ceiling, characters_per_second
from benchmarks.processes import hardware, running, serving
from benchmarks.reference import write_reference_bundle

LONG, LONG_ROUNDS, SHORT_ROUNDS = 1000, 3, 3


def load(target: str, workload: str, streams: int, rounds: int = 1, length: int = LONG) -> dict[str, Any]:
    """One run of the load generator in its own process."""
    flags = ["--workload", workload, "--streams", str(streams), "--rounds", str(rounds), "--length", str(length)]
    command = [sys.executable, "-m", "benchmarks.load", "--target", target, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{workload} {streams}: {figures}", file=sys.stderr)
    return figures


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the most characters: the machine may be shared."""
    return max(runs, key=lambda run: float(run["chars_per_s"]))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,4,16,64,256", help="numbers of streams (default: 1,4,16,64,256)")
    parser.add_argument("--decoder", choices=["onnx-int8", "onnx-fp32"], default="onnx-int8", help="what to serve")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each load, the best counts (default: 3)")
    arguments = parser.parse_args()
    int8, cores = arguments.decoder == "onnx-int8", len(os.sched_getaffinity(0))
    top = ceiling(int8=int8, threads=cores)
    single = characters_per_second(int8=int8, rows=1, threads=1)
    print(f"ceiling {top:,.0f} characters/s on {cores} cores, {single:,.0f} with one row", file=sys.stderr)
    streams: dict[str, dict[str, Any]] = {}
    short: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_reference_bundle(Path(folder) / "reference")
        with serving(bundle, "--decoder", arguments.decoder) as target:
            for count in map(int, arguments.streams.split(",")):
                length = 5 * LONG if count == 1 else LONG
                found = best([load(target, "long", count, LONG_ROUNDS, length) for _ in range(arguments.repeat)])
                floor = single if count == 1 else top
                streams[str(count)] = found | {"ratio": round(found["chars_per_s"] / floor, 3)}
            short["64"] = best([load(target, "short", 64, SHORT_ROUNDS) for _ in range(arguments.repeat)])
    with running("-m", "benchmarks.obvious") as target:
        obvious = {"64": load(target, "long", 64, length=50), "64 short": load(target, "short", 64)}
    print(
        file=sys.stderr,
    )
    print(
        json.dumps(
            {
                "decoder": arguments.decoder,
                "ceiling_chars_per_s": round(top),
                "single_row_chars_per_s": round(single),
                "streams": streams,
                "short_calls": short,
                "obvious": obvious,
                "speedup_64": round(streams["64"]["chars_per_s"] / obvious["64"]["chars_per_s"], 1)
                if "64" in streams
                else None,
                "hardware": hardware(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
