"""Whether calls that are as expensive as may be stay within the memory that they were let in for.

    python -m benchmarks.expensive [--mixes 5] [--seconds 15] [--minutes 15] [--memory-mib 400] [--json]

A server with so much memory (`--memory-bytes`) gets one mix of calls after the other: clients of several connections
make random calls, each as expensive as is legal or a part of that: texts and scores with up to twenty alternatives,
several continuations, long prompts, streams that nobody reads. They are so many that most are refused, so that all of
the budget is taken. Fifty mixes take a quarter of an hour; what is done after so many minutes is told.

Told are the peak of the server's resident memory in each mix as a part of the limit, with what it was before all of
them and what the calls held of their budget by their prices at most; and how long a health check took that is made
again and again, from a process of its own. That process tells by how much it woke up later than it asked for, too:
nobody on this machine can answer sooner than that. In the end ten thousand calls come at once that are refused, since
others hold all memory. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.callers import channel_of
from benchmarks.processes import Process, hardware, serving, status_kib
from benchmarks.reporting import Budget, at_least_one, finish, new_parser, say
from charloom.cli.serving.load import milliseconds
from charloom.models import BUNDLED_MODEL
from charloom.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)

CONNECTIONS, CALLS = 6, 120
STORM_CONNECTIONS, STORM = 16, 10_000
SETTLING = 2.0
"""Seconds until as many calls have begun as the server takes."""
FREE_SECONDS = 30.0
"""How long the server may take to let go of calls that were cancelled."""
PAUSE, HELD_PAUSE = 0.005, 0.25
"""Seconds between two health checks, and two looks at what calls hold."""
Told = dict[str, Any]


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


async def storm(target: str) -> dict[str, int]:
    """How calls ended that were made at once while others held all memory."""
    dear = generation_pb2.GenerationOptions(max_tokens=10_000, n=8, logprobs=True, top_logprobs=20)

    async def one(channel: grpc.aio.Channel) -> None:
        generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        await generation.Complete(generation_pb2.CompleteRequest(options=dear))

    async with channel_of(target) as channel:
        generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        unread = [generation.Generate(generation_pb2.GenerateRequest(options=dear)) for _ in range(CALLS)]
        await asyncio.sleep(SETTLING)
        ends = await at_once(target, STORM, STORM_CONNECTIONS, None, one)
        for call in unread:
            call.cancel()
    return ends


async def at_once(
    target: str,
    count: int,
    connections: int,
    seconds: float | None,
    make_one: Callable[[grpc.aio.Channel], Awaitable[None]],
) -> dict[str, int]:
    """How so many calls ended that were made at once; those that still run after some seconds are cancelled."""
    ends = Counter[str]()
    limit = ("grpc.max_receive_message_length", -1)
    channels = [channel_of(target, limit) for _ in range(connections)]

    async def one(number: int) -> None:
        try:
            await make_one(channels[number % connections])
            ends["OK"] += 1
        except grpc.aio.AioRpcError as problem:
            ends[problem.code().name] += 1

    calls = [asyncio.ensure_future(one(number)) for number in range(count)]
    _, running = await asyncio.wait(calls, timeout=seconds)
    for call in running:
        call.cancel()
        ends["running"] += 1
    await asyncio.gather(*calls, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return dict(ends)


async def watched(target: str, clients: asyncio.subprocess.Process) -> tuple[dict[str, int], Told]:
    """What the clients print in the end, and what was seen until then."""
    checks, late, held = [0.0], [0.0], [0]

    async def check(channel: grpc.aio.Channel) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.perf_counter()
            await stub.Check(health_pb2.HealthCheckRequest())
            ended = time.perf_counter()
            checks.append(ended - began)
            await asyncio.sleep(PAUSE)
            late.append(time.perf_counter() - ended - PAUSE)

    async def weigh(channel: grpc.aio.Channel) -> None:
        while True:
            held.append((await status_of(channel)).call_bytes)
            await asyncio.sleep(HELD_PAUSE)

    async with channel_of(target) as channel:
        watching = [asyncio.ensure_future(watch(channel)) for watch in (check, weigh)]
        printed, _ = await clients.communicate()
        most = (await status_of(channel)).most_bytes
        for one in watching:
            one.cancel()
    told = {"held": round(max(held) / most, 2), "check_ms": in_ms(checks), "watcher_late_ms": in_ms(late)}
    return json.loads(printed), told


async def nothing_held(target: str) -> None:
    """Wait until no call runs."""
    async with channel_of(target) as channel:
        while (await status_of(channel)).call_bytes:
            await asyncio.sleep(HELD_PAUSE)


async def status_of(channel: grpc.aio.Channel) -> status_pb2.GetStatusResponse:
    """What the server says of its work."""
    stub: Any = status_pb2_grpc.StatusServiceStub(channel)
    found: status_pb2.GetStatusResponse = await stub.GetStatus(status_pb2.GetStatusRequest())
    return found


def in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and most, in milliseconds."""
    return (milliseconds(seconds) or {}) | {"max": round(1000 * max(seconds), 2)}


async def measured(server: Process, *flags: str) -> Told:
    """What clients with these flags brought about, once the server has let go of their calls."""
    words = ["-m", "benchmarks.expensive", "--clients-of", server.target, *flags]
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak is what it is now
    clients = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    ends, told = await watched(server.target, clients)
    await asyncio.wait_for(nothing_held(server.target), FREE_SECONDS)
    return {**told, "peak_kib": status_kib(server.pid, "VmHWM"), "ends": ends}


def be_clients(arguments: argparse.Namespace) -> dict[str, int]:
    """Make the calls of a mix, or a storm, and tell how they ended."""
    chance = random.Random(arguments.seed)
    target, seconds = arguments.clients_of, arguments.seconds
    if arguments.storm:
        return asyncio.run(storm(target))
    return asyncio.run(
        at_once(target, CALLS, CONNECTIONS, seconds, lambda channel: make(channel, chance, arguments.tokens))
    )


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--mixes", type=at_least_one, default=5, help="random mixes of calls (default: 5)")
    parser.add_argument("--seconds", type=at_least_one, default=15, help="how long a mix may take (default: 15)")
    parser.add_argument("--minutes", type=at_least_one, default=15, help="no mix begins after these (default: 15)")
    parser.add_argument("--memory-mib", type=at_least_one, default=400, help="the server's limit (default: 400)")
    parser.add_argument("--tokens", type=at_least_one, default=8000, help="longest whole text (default: 8000)")
    parser.add_argument("--clients-of", metavar="TARGET", help="only be the clients of a mix, of this server")
    parser.add_argument("--seed", type=int, default=0, help="of the mix, with --clients-of (default: 0)")
    parser.add_argument("--storm", action="store_true", help="with --clients-of: calls that are refused, not a mix")
    arguments = parser.parse_args()
    if arguments.clients_of:
        print(json.dumps(be_clients(arguments)))
        return 0
    limit, time_left = arguments.memory_mib * 1024, Budget(arguments.minutes)
    flags = ["--tokens", str(arguments.tokens), "--seconds", str(arguments.seconds)]
    runs = []
    with serving(BUNDLED_MODEL, "--memory-bytes", str(1024 * limit)) as server:
        before = status_kib(server.pid, "VmRSS")
        for seed in range(arguments.mixes):
            if not time_left.seconds:
                say(f"{arguments.minutes} minutes are over after {seed} of {arguments.mixes} mixes")
                break
            run = asyncio.run(measured(server, *flags, "--seed", str(seed)))
            runs.append({"seed": seed, "peak": round(run.pop("peak_kib") / limit, 2), **run})
            say(f"{runs[-1]}")
        stormed = asyncio.run(measured(server, "--storm"))
        say(f"{stormed}")
    peaks = [run["peak"] for run in runs]
    longest = [run["check_ms"]["max"] for run in runs]
    found = {
        "memory_mib": arguments.memory_mib,
        "mixes": len(runs),
        "before": round(before / limit, 2),
        "peak": {"least": min(peaks), "median": statistics.median(peaks), "most": max(peaks)},
        "check_ms": {"p99": statistics.median(run["check_ms"]["p99"] for run in runs), "max": max(longest)},
        "longest_checks_ms": sorted(longest),
        "storm": {name: stormed[name] for name in ("check_ms", "watcher_late_ms", "ends")},
        "runs": runs,
        "hardware": hardware(),
    }
    table: list[tuple[object, ...]] = [("mix", "peak / limit", "held", "health check, ms", "watcher late, ms", "ends")]
    table += [
        (run["seed"], run["peak"], run["held"], run["check_ms"], run["watcher_late_ms"], run["ends"]) for run in runs
    ]
    table.append(("storm", "", "", stormed["check_ms"], stormed["watcher_late_ms"], stormed["ends"]))
    finish(found, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
