"""Labels per second of a classifier of names, against an obvious server of the same network.

    python -m benchmarks.classify [--clients 64] [--seconds 3] [--repeat 3] [--json]

Three servers, each a process of its own, are asked by turns by the clients of this process, each of which sends its
next text when it has the label of the last: Charloom; and `benchmarks.obvious_labels` with and without oneDNN, of which
the faster one counts. Texts are names of 6 to 20 characters, and texts of 500. Then the same texts in messages of 64
(ClassifyMany): a few clients, each with one message on its way while the next one is sent; the obvious server reads
the texts of a message in one batch. The last line is one JSON object. In it, for "names" and "texts", and with "_many"
for messages of them: "labels_per_s" and "obvious_per_s", those of the best run, "ratio" of both, and with "_median"
those of the runs in the middle; "p50_ms" and "p99_ms" are times of a call, or of a message, in the best run.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc

from benchmarks.label_reference import SYMBOLS, write_label_bundle
from benchmarks.processes import hardware, running, serving
from benchmarks.reporting import Figures, at_least_one, finish, new_parser, say
from charloom.cli.serving.load import milliseconds
from charloom.v1 import classification_pb2, classification_pb2_grpc

LENGTHS = {"names": (6, 20), "texts": (500, 500)}
MESSAGE, STREAMS, AHEAD = 64, 4, 2
"""Texts of a message of many; calls with many texts at a time; and messages of each that have no answer yet."""
WARM_UP = 0.5
"""Seconds before those that count."""


def texts(kind: str) -> list[str]:
    """Random ones, always the same."""
    choose, letters = random.Random(kind), "".join(SYMBOLS.symbols).strip()
    return ["".join(choose.choices(letters, k=choose.randint(*LENGTHS[kind]))) for _ in range(512)]


async def asked(target: str, kind: str, clients: int, seconds: float) -> Figures:
    """What a server gives these clients, a text in each call."""
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
    return figures(times, 1, seconds)


async def asked_many(target: str, kind: str, seconds: float) -> Figures:
    """What a server gives clients with many texts each."""
    made = texts(kind)
    requests = [
        classification_pb2.ClassifyManyRequest(
            texts=classification_pb2.ClassifyManyTexts(texts=made[first : first + MESSAGE])
        )
        for first in range(0, len(made), MESSAGE)
    ]
    times: list[float] = []
    begins = time.perf_counter() + WARM_UP
    ends = begins + seconds

    async def client(stub: classification_pb2_grpc.ClassificationServiceAsyncStub) -> None:
        sent: list[float] = []
        room = asyncio.Semaphore(AHEAD)

        async def messages() -> AsyncIterator[classification_pb2.ClassifyManyRequest]:
            yield classification_pb2.ClassifyManyRequest(start=classification_pb2.ClassifyManyStart())
            while time.perf_counter() < ends:
                await room.acquire()
                sent.append(time.perf_counter())
                yield requests[len(sent) % len(requests)]

        answered = 0
        async for _ in stub.ClassifyMany(messages()):
            now = time.perf_counter()
            if sent[answered] >= begins and now <= ends:
                times.append(now - sent[answered])
            answered += 1
            room.release()

    async with grpc.aio.insecure_channel(target) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        await asyncio.gather(*(client(stub) for _ in range(STREAMS)))
    return figures(times, MESSAGE, seconds)


def figures(times: Sequence[float], labels: int, seconds: float) -> Figures:
    """Of a run, from the times that its calls or messages took, each with so many labels."""
    took = milliseconds(times)
    if took is None:
        raise SystemExit(f"no answers came in {seconds} s; give more --seconds")
    return {"per_s": round(len(times) * labels / seconds), "p50_ms": took["p50"], "p99_ms": took["p99"]}


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
    for kind in [*LENGTHS, *(f"{kind}_many" for kind in LENGTHS)]:
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
                    many = asyncio.run(asked_many(server.target, kind, arguments.seconds))
                    say(f"{name}, {kind}: {run}, in messages: {many}")
                    runs.setdefault((name, kind), []).append(run)
                    runs.setdefault((name, f"{kind}_many"), []).append(many)
    found: Figures = {"hardware": hardware(), "clients": arguments.clients}
    for kind in [*LENGTHS, *(f"{kind}_many" for kind in LENGTHS)]:
        obvious = [runs["obvious", kind], runs["obvious with oneDNN", kind]]
        found[kind] = result(runs["charloom", kind], obvious)
    finish(found, table(found), only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
