"""Clients of one kind in one process: polite ones, or one that takes what it can.

    python -m benchmarks.callers --target HOST:PORT --kind polite|streams|unread|resetting|neighbour --seconds S
        [--clients N] [--tokens KEY ...] [--connections N] [--cores C]

`polite` clients have a connection each, and make one short call after the other; `streams` is one with a thousand long
streams, which it reads; `unread` has as many and reads none; `resetting` begins calls and resets them at once, in raw
HTTP/2. Polite clients show a key each, a greedy one shows the first key on all its connections. A `neighbour` is no
client: it uses so many cores, in parts, and leaves the server alone. It prints one JSON object, with the cores that it
used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from benchmarks.reporting import at_least_one
from charloom.cli.serving.load import milliseconds
from charloom.v1 import generation_pb2, generation_pb2_grpc

LENGTH, STREAMS = 64, 1000
"""Characters of a short call, and streams of a greedy client."""
WARM_UP = 1.0
NEIGHBOUR_PAUSE = 0.001
NARROW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""Little is buffered on the way, so that the server soon notices that nobody reads."""


def channel_of(target: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1), *options])


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    """What a call shows of its caller."""
    return (("authorization", f"Bearer {token}"),) if token else ()


async def polite(target: str, seconds: float, tokens: Sequence[str]) -> dict[str, Any]:
    """Short calls, one after the other, by each client."""
    first: list[float] = []
    ends: Counter[str] = Counter()
    began = time.perf_counter() + WARM_UP
    over = began + seconds

    async def client(token: str) -> int:
        characters = 0
        async with channel_of(target) as channel:
            stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
            request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=LENGTH))
            while (at := time.perf_counter()) < over:
                seen = 0
                try:
                    async for message in stub.Generate(request, timeout=60, metadata=metadata_of(token)):
                        if at >= began and not seen and message.text:
                            first.append(time.perf_counter() - at)
                        seen += len(message.text)
                    ends["OK"] += 1
                except grpc.aio.AioRpcError as problem:
                    ends[problem.code().name] += 1
                if began <= at < over:
                    characters += seen
        return characters

    counts = await asyncio.gather(*(client(token) for token in tokens))
    return {
        "chars_per_s": [round(count / seconds, 1) for count in counts],
        "ttfc_ms": milliseconds(first),
        "ends": dict(ends),
    }


async def streams(target: str, seconds: float, token: str, connections: int, *, reads: bool) -> dict[str, Any]:
    """Long streams of one client; one that was refused is begun again after a second."""
    characters = 0
    ends: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(channel_of(target, *(() if reads else NARROW))) for _ in range(connections)
        ]
        stubs: list[Any] = [generation_pb2_grpc.GenerationServiceStub(channel) for channel in channels]
        request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=65_536))

        async def stream(stub: Any) -> None:
            nonlocal characters
            while True:
                call = stub.Generate(request, metadata=metadata_of(token))
                try:
                    if not reads:
                        await call.wait_for_connection()
                        await call.code()
                    async for message in call:
                        characters += len(message.text)
                except grpc.aio.AioRpcError as problem:
                    ends[problem.code().name] += 1
                await asyncio.sleep(1)

        tasks = [asyncio.ensure_future(stream(stubs[number % connections])) for number in range(STREAMS)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {"chars_per_s": round(characters / seconds, 1), "ends": dict(ends)}


def resetting(target: str, seconds: float, token: str) -> dict[str, Any]:
    """Calls that are reset as soon as they were begun, as many as the server takes."""
    host, _, port = target.rpartition(":")
    own = ("127.0.0.2", 0) if host == "127.0.0.1" else None  # for proxies, which tell clients apart by address
    with socket.create_connection((host, int(port)), source_address=own) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        threading.Thread(target=_acknowledge, args=(connection,), daemon=True).start()
        path = b"/charloom.v1.GenerationService/Generate"
        head = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01\x08charloom"
        head += _literal(b"content-type", b"application/grpc") + _literal(b"te", b"trailers")
        head += b"".join(_literal(name.encode(), value.encode()) for name, value in metadata_of(token))
        stream, end = 1, time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                batch = b""
                for number in range(stream, stream + 200, 2):
                    batch += _frame(1, 4, number, head) + _frame(0, 1, number, bytes(5))
                    batch += _frame(3, 0, number, struct.pack(">I", 8))
                stream += 200
                connection.sendall(batch)
        except OSError:  # the server has ended the connection
            pass
    return {"resets": stream // 2}


def neighbour(seconds: float, cores: float) -> dict[str, Any]:
    """Processor time that is used up, in small parts, on one core at a time at most."""
    end = time.monotonic() + seconds
    began, used = time.monotonic(), time.process_time()
    while (now := time.monotonic()) < end:
        if time.process_time() - used >= cores * (now - began):
            time.sleep(NEIGHBOUR_PAUSE)
    return {}


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _acknowledge(connection: socket.socket) -> None:
    """Answer settings and pings, and drop everything else."""
    unread = b""
    try:
        while data := connection.recv(65_536):
            unread += data
            while len(unread) >= 9 + (length := int.from_bytes(unread[:3], "big")):
                kind, flags, body = unread[3], unread[4], unread[9 : 9 + length]
                unread = unread[9 + length :]
                if kind in (4, 6) and not flags & 1:
                    connection.sendall(_frame(kind, 1, 0, body if kind == 6 else b""))
    except OSError:
        return


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--kind", choices=["polite", "streams", "unread", "resetting", "neighbour"], required=True)
    parser.add_argument("--seconds", type=at_least_one, default=10)
    parser.add_argument("--clients", type=at_least_one, default=4)
    parser.add_argument("--tokens", nargs="*", default=())
    parser.add_argument("--connections", type=at_least_one, default=1)
    parser.add_argument("--cores", type=float, default=0.0)
    asked = parser.parse_args()
    began = time.monotonic()
    tokens = asked.tokens or [""] * asked.clients
    if asked.kind == "polite":
        found = asyncio.run(polite(asked.target, asked.seconds, tokens))
    elif asked.kind == "resetting":
        found = resetting(asked.target, asked.seconds, tokens[0])
    elif asked.kind == "neighbour":
        found = neighbour(asked.seconds, asked.cores)
    else:
        reads = asked.kind == "streams"
        found = asyncio.run(streams(asked.target, asked.seconds, tokens[0], asked.connections, reads=reads))
    found["cores"] = round(time.process_time() / (time.monotonic() - began), 2)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
