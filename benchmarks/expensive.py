"""Whether calls that are as expensive as may be stay within the memory that they were let in for.

    python -m benchmarks.expensive [--mixes 5] [--memory-mib 400] [--json]

For each mix a server with so much memory (`--memory-bytes`) is started, and clients of several connections make random
calls, each as expensive as is legal or a part of that: texts and scores with up to twenty alternatives, several
continuations, long prompts, streams that nobody reads. They go on until most are refused, so that all of the budget is
taken. Told is the peak of the resident memory as a part of the limit, and how long a health check took at most that is
made again and again, from a process of its own. The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
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


async def mix(target: str, seed: int, tokens: int) -> dict[str, int]:
    """How the calls of a mix ended."""
    chance, ends = random.Random(seed), Counter[str]()
    limit = ("grpc.max_receive_message_length", -1)
    channels = [channel_of(target, limit) for _ in range(CONNECTIONS)]

    async def one(number: int) -> None:
        try:
            await make(channels[number % CONNECTIONS], chance, tokens)
            ends["OK"] += 1
        except grpc.aio.AioRpcError as problem:
            ends[problem.code().name] += 1

    calls = [asyncio.ensure_future(one(number)) for number in range(CALLS)]
    _, running = await asyncio.wait(calls, timeout=SECONDS)
    for call in running:
        call.cancel()
        ends["running"] += 1
    await asyncio.gather(*calls, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return dict(ends)


async def watched(target: str, clients: asyncio.subprocess.Process) -> tuple[dict[str, int], list[float]]:
    """What the clients print in the end, and the seconds of each health check until then."""

    async def watch() -> None:
        async with channel_of(target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                began = time.perf_counter()
                await stub.Check(health_pb2.HealthCheckRequest())
                taken.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)

    taken: list[float] = []
    watching = asyncio.ensure_future(watch())
    printed, _ = await clients.communicate()
    watching.cancel()
    return json.loads(printed), taken


async def measured(target: str, seed: int, tokens: int) -> tuple[dict[str, int], list[float]]:
    """A mix, and the health checks beside it."""
    words = ["-m", "benchmarks.expensive", "--clients-of", target, "--seed", str(seed), "--tokens", str(tokens)]
    clients = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    return await watched(target, clients)


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
    parser.add_argument("--clients-of", metavar="TARGET", help="only be the clients of a mix, of this server")
    parser.add_argument("--seed", type=int, default=0, help="of the mix, with --clients-of (default: 0)")
    arguments = parser.parse_args()
    if arguments.clients_of:
        print(json.dumps(asyncio.run(mix(arguments.clients_of, arguments.seed, arguments.tokens))))
        return 0
    runs = []
    for seed in range(arguments.mixes):
        with serving(BUNDLED_MODEL, "--memory-bytes", str(arguments.memory_mib * 2**20)) as server:
            ends, checks = asyncio.run(measured(server.target, seed, arguments.tokens))
            part = peak_kib(server.pid) / 1024 / arguments.memory_mib
            p50, p99, most = (round(1000 * float(np.quantile(checks, q)), 1) for q in (0.5, 0.99, 1))
            check_ms = {"p50": p50, "p99": p99, "max": most}
            runs.append({"seed": seed, "peak": round(part, 2), "check_ms": check_ms, "ends": ends})
            say(f"{runs[-1]}")
    found = {
        "memory_mib": arguments.memory_mib,
        "peak": [run["peak"] for run in runs],
        "check_ms": max(run["check_ms"]["max"] for run in runs),
        "runs": runs,
        "hardware": hardware(),
    }
    table: list[tuple[object, ...]] = [("mix", "peak / limit", "health check, ms", "ends")]
    table += [(run["seed"], run["peak"], run["check_ms"], run["ends"]) for run in runs]
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
