"""Labels per second of a classifier of names, against an obvious server of the same network.

    python -m benchmarks.classify [--clients 64] [--seconds 3] [--repeat 3] [--json]

Three servers, each a process of its own, are asked by turns by the clients of this process, each of which sends its
next text when it has the label of the last: Charloom; and `benchmarks.obvious_labels` with and without oneDNN, of which
the faster one counts. Texts are names of 6 to 20 characters, and texts of 500. The last line is one JSON object. In it,
for "names" and "texts": "labels_per_s" and "obvious_per_s", those of the best run, "ratio" of both, and with "_median"
those of the runs in the middle; "p50_ms" and "p99_ms" are times of a call in the best run.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from benchmarks.label_reference import SYMBOLS, write_label_bundle
from benchmarks.processes import hardware, running, serving
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.v1 import classification_pb2, classification_pb2_grpc

Figures = dict[str, Any]
LENGTHS = {"names": (6, 20), "texts": (500, 500)}
WARM_UP = 0.5
"""Seconds before those that count."""


def texts(kind: str) -> list[str]:
    """Random ones, always the same."""
    choose, letters = random.Random(kind), "".join(SYMBOLS.symbols).strip()
    return ["".join(choose.choices(letters, k=choose.randint(*LENGTHS[kind]))) for _ in range(512)]


async def asked(target: str, kind: str, clients: int, seconds: float) -> Figures:
    """What a server gives these clients."""
    requests = [classification_pb2.ClassifyRequest(text=text) for text in texts(kind)]
    times: list[float] = []
    begins = time.perf_counter() + WARM_UP
    ends = begins + seconds

    async def client(number: int, stub: classification_pb2_grpc.ClassificationServiceAsyncStub) -> None:
        turn = number
        while (sent := time.perf_counter()) < ends:
            await stub.Classify(requests[turn % len(requests)])
            now = time.perf_counter()
            if sent >= begins and now <= ends:
                times.append(now - sent)
            turn += clients

    async with grpc.aio.insecure_channel(target) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        await asyncio.gather(*(client(number, stub) for number in range(clients)))
    percentiles = statistics.quantiles(times, n=100)
    return {
        "per_s": round(len(times) / seconds),
        "p50_ms": round(1000 * percentiles[49], 2),
        "p99_ms": round(1000 * percentiles[98], 2),
    }


def result(ours: Sequence[Figures], obvious: Sequence[Sequence[Figures]]) -> Figures:
    """Of the runs of one kind of text: ours, and those of each obvious server."""
    best = max(ours, key=lambda run: float(run["per_s"]))
    told: Figures = {"p50_ms": best["p50_ms"], "p99_ms": best["p99_ms"]}
    for suffix, of in (("", max), ("_median", statistics.median)):
        speed = of([run["per_s"] for run in ours])
        others = max(of([run["per_s"] for run in runs]) for runs in obvious)
        told |= {
            f"labels_per_s{suffix}": round(speed),
            f"obvious_per_s{suffix}": round(others),
            f"ratio{suffix}": round(speed / others, 2),
        }
    return told


def table(found: Figures) -> list[tuple[object, ...]]:
    """Rows of what is printed."""
    rows: list[tuple[object, ...]] = [("texts", "labels/s", "obvious", "ratio", "median", "p50 / p99 ms")]
    for kind in LENGTHS:
        one = found[kind]
        times = f"{one['p50_ms']} / {one['p99_ms']}"
        rows.append((kind, one["labels_per_s"], one["obvious_per_s"], one["ratio"], one["ratio_median"], times))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = new_parser(__doc__)
    parser.add_argument("--clients", type=at_least_one, default=64)
    parser.add_argument("--seconds", type=at_least_one, default=3)
    parser.add_argument("--repeat", type=at_least_one, default=3)
    arguments = parser.parse_args()
    runs: dict[tuple[str, str], list[Figures]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            "charloom": stack.enter_context(serving(write_label_bundle(folder / "names"))),
            "obvious": stack.enter_context(running("-m", "benchmarks.obvious_labels")),
            "obvious with oneDNN": stack.enter_context(running("-m", "benchmarks.obvious_labels", "--onednn")),
        }
        for _ in range(arguments.repeat):
            for kind in LENGTHS:
                for name, server in servers.items():
                    run = asyncio.run(asked(server.target, kind, arguments.clients, arguments.seconds))
                    say(f"{name}, {kind}: {run}")
                    runs.setdefault((name, kind), []).append(run)
    found: Figures = {"hardware": hardware(), "clients": arguments.clients}
    for kind in LENGTHS:
        obvious = [runs["obvious", kind], runs["obvious with oneDNN", kind]]
        found[kind] = result(runs["charloom", kind], obvious)
    finish(found, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
