"""Whether calls that are as expensive as may be stay within the memory that they were let in for.

    python -m benchmarks.expensive [--mixes 5] [--memory-mib 400] [--json]

For each mix a server with so much memory (`--memory-bytes`) is started, and clients of several connections make random
calls, each as expensive as is legal or a part of that: texts and scores with up to twenty alternatives, several
continuations, long prompts, streams that nobody reads. They go on until most are refused, so that all of the budget is
taken. Told is the peak of the resident memory as a part of the limit, and how long the event loop was away at most,
by a health check that is made again and again. The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.callers import channel_of
from benchmarks.processes import hardware, serving
from benchmarks.reporting import at_least_one, finish, new_parser, say
from charloom.models import BUNDLED_MODEL
from charloom.v1 import generation_pb2, generation_pb2_grpc, reading_pb2, reading_pb2_grpc

CONNECTIONS, CALLS = 6, 120
SECONDS = 40.0
"""How long a mix may take; calls that run then are cancelled."""


def options(chance: random.Random, tokens: int) -> generation_pb2.GenerationOptions:
    """What a call asks for."""
    asked = generation_pb2.GenerationOptions(max_tokens=chance.randint(1, tokens), n=chance.choice([1, 1, 2, 8]))
    if chance.random() < 0.7:
        asked.logprobs = True
        asked.top_logprobs = chance.choice([0, 5, 20])
    if chance.random() < 0.3:
        asked.prompt = "a" * chance.randint(1, 65_536)
    return asked


async def make(channel: grpc.aio.Channel, chance: random.Random, tokens: int) -> None:
    """One random call, and its answer."""
    generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
    reading: Any = reading_pb2_grpc.ReadingServiceStub(channel)
    kind = chance.random()
    if kind < 0.5:
        await generation.Complete(generation_pb2.CompleteRequest(options=options(chance, tokens)))
    elif kind < 0.7:
        text = "a" * chance.randint(1, 2 * tokens)
        await reading.Score(reading_pb2.ScoreRequest(text=text, top_logprobs=chance.choice([0, 20])))
    else:
        call = generation.Generate(generation_pb2.GenerateRequest(options=options(chance, 65_536)))
        await call.code()  # nobody reads it


async def mix(target: str, seed: int, tokens: int) -> tuple[Counter[str], float]:
    """How the calls of a mix ended, and how long the event loop was away at most."""
    chance, ends = random.Random(seed), Counter[str]()
    limit = ("grpc.max_receive_message_length", -1)
    channels = [channel_of(target, limit) for _ in range(CONNECTIONS)]
    away = 0.0

    async def one(number: int) -> None:
        try:
            await make(channels[number % CONNECTIONS], chance, tokens)
            ends["OK"] += 1
        except grpc.aio.AioRpcError as problem:
            ends[problem.code().name] += 1

    async def watch() -> None:
        nonlocal away
        async with channel_of(target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                began = time.perf_counter()
                await stub.Check(health_pb2.HealthCheckRequest())
                away = max(away, time.perf_counter() - began)
                await asyncio.sleep(0.005)

    watching = asyncio.ensure_future(watch())
    calls = [asyncio.ensure_future(one(number)) for number in range(CALLS)]
    _, running = await asyncio.wait(calls, timeout=SECONDS)
    for call in running:
        call.cancel()
        ends["running"] += 1
    watching.cancel()
    await asyncio.gather(*calls, watching, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return ends, away


def peak_kib(pid: int) -> int:
    """The largest resident memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise ValueError(f"nothing is known of process {pid}")


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--mixes", type=at_least_one, default=5, help="random mixes of calls (default: 5)")
    parser.add_argument("--memory-mib", type=at_least_one, default=400, help="the server's limit (default: 400)")
    parser.add_argument("--tokens", type=at_least_one, default=8000, help="longest whole text (default: 8000)")
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.mixes):
        with serving(BUNDLED_MODEL, "--memory-bytes", str(arguments.memory_mib * 2**20)) as server:
            ends, away = asyncio.run(mix(server.target, seed, arguments.tokens))
            part = peak_kib(server.pid) / 1024 / arguments.memory_mib
            runs.append({"seed": seed, "peak": round(part, 2), "away_ms": round(away * 1000), "ends": dict(ends)})
            say(f"{runs[-1]}")
    found = {
        "memory_mib": arguments.memory_mib,
        "peak": [run["peak"] for run in runs],
        "away_ms": max(run["away_ms"] for run in runs),
        "runs": runs,
        "hardware": hardware(),
    }
    table: list[tuple[object, ...]] = [("mix", "peak / limit", "event loop away, ms", "ends")]
    table += [(run["seed"], run["peak"], run["away_ms"], run["ends"]) for run in runs]
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
