"""Load for a server that is running: long streams or short calls, from one asyncio process.

    python -m benchmarks.load --target localhost:50051 --streams 64 [--workload long|short] [--rounds N]

Knows: the wire contract through generated stubs, so that it costs as little as it can. Does not know: servers.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

PROMPT = "The quality of mercy is not strai"[:32]
SHORT_CALLS, SHORT_LENGTH = 4, 64


@dataclass
class Seen:
    """What one stream of one call saw."""

    began: float
    times: list[float] = field(default_factory=list)
    """When each message with text arrived."""
    characters: int = 0


async def one_call(stub: Any, options: generation_pb2.GenerationOptions) -> Seen:
    """Read one generation to its end."""
    seen = Seen(time.perf_counter())
    async for message in stub.Generate(generation_pb2.GenerateRequest(options=options)):
        if message.text:
            seen.times.append(time.perf_counter())
            seen.characters += len(message.text)
    return seen


async def long_stream(channel: grpc.aio.Channel, number: int, length: int) -> list[Seen]:
    """One stream of `length` characters."""
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    return [await one_call(stub, generation_pb2.GenerationOptions(max_tokens=length, seed=number))]


async def short_session(channel: grpc.aio.Channel, number: int, length: int) -> list[Seen]:
    """A session of four calls, each a 32-character prompt and 64 generated characters; `length` is not used."""
    generation = generation_pb2_grpc.GenerationServiceStub(channel)
    sessions = sessions_pb2_grpc.SessionServiceStub(channel)
    session = (await sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=number))).session.id
    options = generation_pb2.GenerationOptions(session_id=session, prompt=PROMPT, max_tokens=SHORT_LENGTH)
    return [await one_call(generation, options) for _ in range(SHORT_CALLS)]


async def load(target: str, workload: str, streams: int, rounds: int, length: int) -> dict[str, Any]:
    """Keep `streams` clients busy, each for `rounds` streams or sessions one after the other."""
    work = long_stream if workload == "long" else short_session
    channels = [
        grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(min(4, streams))
    ]

    async def client(number: int) -> list[Seen]:
        found: list[Seen] = []
        for turn in range(rounds):
            found += await work(channels[number % len(channels)], number + turn * streams, length)
        return found

    await client(0)  # connections, code paths and the server's own estimates are warm then
    cpu, began = _cpu(), time.perf_counter()
    calls = [seen for found in await asyncio.gather(*(client(n) for n in range(streams))) for seen in found]
    elapsed = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    return summary(calls, elapsed, _cpu() - cpu)


def summary(calls: Sequence[Seen], elapsed: float, cpu: float) -> dict[str, Any]:
    """Figures over all calls."""
    gaps = [b - a for seen in calls for a, b in zip(seen.times, seen.times[1:], strict=False)]
    characters = sum(seen.characters for seen in calls)
    return {
        "chars_per_s": round(characters / elapsed),
        "calls_per_s": round(len(calls) / elapsed, 1),
        "messages_per_s": round(sum(len(seen.times) for seen in calls) / elapsed),
        "ttfc_ms": _percentiles([seen.times[0] - seen.began for seen in calls]),
        "gap_ms": _percentiles(gaps) if gaps else None,
        "client_cpu_share": round(cpu / elapsed, 2),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [seconds[0]] * 99
    return {"p50": round(cuts[49] * 1000, 2), "p99": round(cuts[98] * 1000, 2)}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Run one load and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="localhost:50051", help="address of the server")
    parser.add_argument("--workload", choices=["long", "short"], default="long", help="long streams or short calls")
    parser.add_argument("--streams", type=int, default=64, help="clients at a time")
    parser.add_argument("--rounds", type=int, default=1, help="streams or sessions of each client")
    parser.add_argument("--length", type=int, default=1000, help="characters of a long stream")
    arguments = parser.parse_args()
    figures = asyncio.run(
        load(arguments.target, arguments.workload, arguments.streams, arguments.rounds, arguments.length)
    )
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
