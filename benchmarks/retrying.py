"""Clients that go on asking a server that has enough work, in one process.

    python -m benchmarks.retrying --target HOST:PORT --clients N --seconds S [--rude]

Each client makes one call after the other. Refused, it waits as long as the server says (`google.rpc.RetryInfo`) and up
to as much again, at random; with `--rude` it asks again at once. It prints one JSON
object with the figures of the time after the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from benchmarks.reporting import at_least_one
from charloom.cli.serving.load import is_refusal, milliseconds
from charloom.v1 import generation_pb2, generation_pb2_grpc

LENGTH = 500
"""Characters of a call."""
STARTING_SECONDS = 2.0
"""The clients come all at once; this later they are spread, and what they see counts."""
CHANNELS = 4
USUAL_DELAY = 1.0
"""Seconds to wait where the server does not say."""


class Retrying:
    """The clients, and what they count."""

    def __init__(self, rude: bool) -> None:
        self._rude = rude
        self._random = random.Random(0)
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self.characters = self.calls = 0
        self.refusals: list[float] = []
        """Seconds that each took."""

    async def client(self, channel: grpc.aio.Channel) -> None:
        """Call after call, without end."""
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=LENGTH))
        while True:
            began = time.perf_counter()
            try:
                async for message in stub.Generate(request):
                    self.characters += len(message.text)
                self.calls += 1
            except grpc.aio.AioRpcError as problem:
                if not is_refusal(problem):
                    raise
                self.refusals.append(time.perf_counter() - began)
                if not self._rude:
                    await asyncio.sleep(retry_delay(problem) * self._random.uniform(1, 2))


def retry_delay(problem: grpc.aio.AioRpcError) -> float:
    """Seconds that the server asks to wait."""
    for key, value in problem.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return float(info.retry_delay.ToNanoseconds() / 1e9)
    return USUAL_DELAY


async def figures(target: str, clients: int, seconds: float, *, rude: bool) -> dict[str, Any]:
    """Run the clients for some time and tell what they saw."""
    retrying = Retrying(rude)
    channels = [
        grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
    ]
    tasks = [asyncio.create_task(retrying.client(channels[number % CHANNELS])) for number in range(clients)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=STARTING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        retrying.reset()
        began, cpu = time.perf_counter(), time.process_time()
        if not done:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:  # they go on for ever unless something fails
            task.result()
        passed, used = time.perf_counter() - began, time.process_time() - cpu
        return {
            "chars_per_s": round(retrying.characters / passed),
            "calls": retrying.calls,
            "refusals": len(retrying.refusals),
            "refusal_ms": milliseconds(retrying.refusals),
            "client_cpu": round(used / passed, 2),
        }
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="address of the server")
    parser.add_argument("--clients", type=at_least_one, required=True, help="clients at a time")
    parser.add_argument("--seconds", type=at_least_one, required=True, help="how long it counts")
    parser.add_argument("--rude", action="store_true", help="ask again at once")
    arguments = parser.parse_args()
    found = asyncio.run(figures(arguments.target, arguments.clients, arguments.seconds, rude=arguments.rude))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
