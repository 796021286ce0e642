"""Short calls, 32 characters of prompt and 64 generated, to TorchServe and to our server, by turns in one run.

    python -m benchmarks.torchserve --torchserve-python PYTHON [--rounds 3] [--repeat 3] [--json]
        [--decoders torch-int8,torch-fp32,onnx-int8] [--workers 2] [--steps 48] [--delay 5]

TorchServe serves the same network from `benchmarks.torchserve_handler` with its continuous batching: over HTTP, since
over gRPC TorchServe 0.12 drops a streamed call from a continuous batch after its first message. It needs Java 17, and
an environment of its own:

    python -m venv torchserve
    torchserve/bin/pip install torchserve torch-model-archiver torch numpy pyyaml onnxruntime

64 clients have a session each, four calls in it, and then the next session. Each combination of decoder, workers, steps
of a round, and milliseconds that an idle worker waits for more calls, is a set of models in one TorchServe; a session
stays with one worker, and the workers share the cores. "onnx-int8" is the graph that our server runs. The last line is
one JSON object: "ours", "shared_stream" (the same server, where the calls of a connection share one stream) and
"torchserve" by combination, each with its "best" and its "median" run by characters per second; "ratio" and
"shared_stream_ratio" are of these two to the fastest combination's best run, and with "_median" of the runs in the
middle.
"server_ms" and "client_ms" are milliseconds of processor time for each call, of all processes of the server, and of the
client.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.processes import CpuMeter, Process, bench, hardware, output_of, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import (
    Figures,
    at_least_one,
    best_and_median,
    counts,
    finish,
    names_of,
    new_parser,
    say,
    shown_times,
)
from benchmarks.torchserve_server import MOST_CALLS, Setup, missing, torchserve

CLIENTS = MOST_CALLS
DECODERS = ("torch-int8", "torch-fp32", "onnx-int8")
OURS, SHARED = "ours", "shared_stream"
KEPT = ("chars_per_s", "calls_per_s", "messages_per_call", "ttfc_ms", "seconds")


def measured(server: Process, load: Callable[[], Figures]) -> Figures:
    """A run, with the milliseconds of processor time that a call takes of the server and of the client."""
    with CpuMeter(server) as meter:
        run = load()
    server_cpu, _ = meter.shares(run["began"], run["seconds"])
    used = {"server_ms": server_cpu, "client_ms": run["client_cpu"]}
    each = {name: round(1000 * cores / run["calls_per_s"], 2) for name, cores in used.items()}
    return {name: run[name] for name in KEPT} | each


def result(runs: Mapping[str, Sequence[Figures]]) -> Figures:
    """All figures, see the text of this module."""
    shown = {name: best_and_median(found, _speed) for name, found in runs.items()}
    fastest = max((name for name in runs if name not in (OURS, SHARED)), key=lambda name: _speed(shown[name]["best"]))

    def ratio(name: str, which: str) -> float:
        return round(_speed(shown[name][which]) / _speed(shown[fastest][which]), 2)

    return {
        "ratio": ratio(OURS, "best"),
        "ratio_median": ratio(OURS, "median"),
        "shared_stream_ratio": ratio(SHARED, "best"),
        "shared_stream_ratio_median": ratio(SHARED, "median"),
        "fastest": fastest,
        OURS: shown.pop(OURS),
        SHARED: shown.pop(SHARED),
        "torchserve": shown,
    }


def table(found: Figures) -> list[tuple[object, ...]]:
    """A row for our server and for each setup."""
    rows: list[tuple[object, ...]] = [
        ("", "characters/s", "median", "first character p50 / p99 ms", "messages", "server ms", "client ms")
    ]
    for name, runs in {OURS: found[OURS], SHARED: found[SHARED], **found["torchserve"]}.items():
        best, median = runs["best"], runs["median"]
        speeds = best["chars_per_s"], median["chars_per_s"]
        used = best["messages_per_call"], best["server_ms"], best["client_ms"]
        rows.append((name, *speeds, shown_times(best["ttfc_ms"]), *used))
    return rows


def _speed(run: Figures) -> float:
    return float(run["chars_per_s"])


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--torchserve-python", metavar="PYTHON", required=True, help="of TorchServe's environment")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="sessions of each client in a run (default: 3)")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="runs of each server (default: 3)")
    parser.add_argument("--decoders", type=names_of(DECODERS), default=[*DECODERS], help="TorchServe's (default: all)")
    parser.add_argument("--workers", type=counts, default=[2], help="of TorchServe (default: 2)")
    parser.add_argument("--steps", type=counts, default=[48], help="of a round of its batch (default: 48)")
    parser.add_argument("--delay", type=counts, default=[5], help="ms that its workers wait for calls (default: 5)")
    asked = parser.parse_args()
    python = asked.torchserve_python
    if absent := missing(python):
        parser.error(absent)
    setups = [Setup(*parts) for parts in itertools.product(asked.decoders, asked.workers, asked.steps, asked.delay)]
    runs: dict[str, list[Figures]] = {}
    load = {"streams": CLIENTS, "rounds": asked.rounds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = write_reference_bundle(folder / "ours")
        ours = stack.enter_context(serving(bundle, "--decoder", "onnx-int8"))
        peer = stack.enter_context(torchserve(python, folder, setups))
        for _ in range(asked.repeat):
            for name, flags in ((OURS, {}), (SHARED, {"shared_stream": True})):
                _keep(runs, name, measured(ours, partial(bench, ours.target, workload="short", **load, **flags)))
            for setup in setups:
                words = ["--models", ",".join(setup.models), "--clients", str(CLIENTS), "--rounds", str(asked.rounds)]
                command = ("-m", "benchmarks.torchserve_load", peer.target, *words, "--json")
                _keep(runs, setup.name, measured(peer, partial(output_of, *command)))
    found = result(runs) | {"rounds": asked.rounds, "hardware": hardware()}
    finish(found, table(found), only_json=asked.json)
    return 0


def _keep(runs: dict[str, list[Figures]], name: str, run: Figures) -> None:
    runs.setdefault(name, []).append(run)
    say(f"{name}: {run}")


if __name__ == "__main__":
    sys.exit(main())
