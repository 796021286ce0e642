"""What sessions as values cost: each call per second and its 99th percentile, for each session store.

    python -m benchmarks.state [--stores memory,sqlite,redis] [--count 2000] [--json]

A real server process with the reference bundle, over real gRPC, `CALLERS` calls at a time, from this process on the
same machine. The sessions have 200 characters of text. "feed" reads one character and writes the session: a snapshot,
stored. "get" reads and writes nothing. "sqlite" is a file in a temporary folder, "redis" a redis-server that is started
for it. The last line is one JSON object. Single runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.cluster import POLL_SECONDS, answers_ping, find_program
from benchmarks.ending import ends_on_sigterm
from benchmarks.processes import HOST, free_ports, hardware, serving
from benchmarks.reference import write_reference_bundle
from benchmarks.reporting import at_least_one, finish, names_of, new_parser, say
from charloom.cli.serving.load import milliseconds
from charloom.v1 import sessions_pb2, sessions_pb2_grpc

CALLERS, SESSIONS, LENGTH = 16, 64, 200
TEXT = "0123456789" * (LENGTH // 10)
STORES = ("memory", "sqlite", "redis")

Call = Callable[[int], Awaitable[Any]]


async def measured(call: Call, count: int) -> dict[str, Any]:
    """Calls number 0 to `count`, some at a time: how many per second, and how long each took."""
    numbers, times = iter(range(count)), list[float]()

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return {"per_s": round(count / (time.perf_counter() - began)), "ms": milliseconds(times)}


async def figures(target: str, count: int) -> dict[str, Any]:
    """All calls on one server."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = sessions_pb2_grpc.SessionServiceStub(channel)
        names = [f"s{number}" for number in range(SESSIONS)]
        for name in names:
            await stub.CreateSession(sessions_pb2.CreateSessionRequest(session_id=name, seed=1))
            await stub.FeedSession(sessions_pb2.FeedSessionRequest(session_id=name, text=TEXT))
        state = (await stub.ExportSession(sessions_pb2.ExportSessionRequest(session_id=names[0]))).state

        # A session has one writer at a time, so those calls that write take turns at sessions of their own.
        locks = [asyncio.Lock() for _ in names]

        async def alone(number: int, call: Callable[[str], Awaitable[Any]]) -> None:
            async with locks[number % SESSIONS]:
                await call(names[number % SESSIONS])

        def feed(name: str) -> Awaitable[Any]:
            return stub.FeedSession(sessions_pb2.FeedSessionRequest(session_id=name, text="a"))  # type: ignore[no-any-return]

        def rewind(name: str) -> Awaitable[Any]:
            return stub.RewindSession(sessions_pb2.RewindSessionRequest(session_id=name, position=LENGTH // 2))  # type: ignore[no-any-return]

        calls: dict[str, Call] = {
            "create": lambda _: stub.CreateSession(sessions_pb2.CreateSessionRequest()),
            "get": lambda n: stub.GetSession(sessions_pb2.GetSessionRequest(session_id=names[n % SESSIONS])),
            "feed": lambda n: alone(n, feed),
            "fork": lambda n: stub.ForkSession(sessions_pb2.ForkSessionRequest(session_id=names[n % SESSIONS])),
            "rewind": lambda n: alone(n, rewind),
            "export": lambda n: stub.ExportSession(sessions_pb2.ExportSessionRequest(session_id=names[n % SESSIONS])),
            "import": lambda _: stub.ImportSession(sessions_pb2.ImportSessionRequest(state=state)),
        }
        return {name: await measured(call, count) for name, call in calls.items()}


@contextmanager
def store_url(store: str, folder: Path) -> Iterator[str]:
    """The URL of a fresh store of some kind."""
    if store != "redis":
        yield {"memory": "memory:", "sqlite": f"sqlite:{folder / 'sessions.db'}"}[store]
        return
    (port,) = free_ports(1)
    command = [find_program("redis-server"), "--bind", HOST, "--port", str(port), "--save", "", "--dir", str(folder)]
    with ends_on_sigterm():
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not answers_ping(port):
                if redis.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} has ended")
                time.sleep(POLL_SECONDS)
            yield f"redis://{HOST}:{port}/0"
        finally:
            redis.terminate()
            redis.wait()


def main() -> int:
    """Measure and print."""
    parser = new_parser(__doc__)
    parser.add_argument("--stores", type=names_of(STORES), default=[*STORES], help="which stores (default: all)")
    parser.add_argument("--count", type=at_least_one, default=2000, help="calls of each kind (default: 2000)")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    table: list[tuple[object, ...]] = [("store", "call", "per second", "p50 ms", "p99 ms")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_reference_bundle(folder / "reference")
        for store in arguments.stores:
            with store_url(store, folder) as url, serving(bundle, "--store", url) as server:
                found[store] = asyncio.run(figures(server.target, arguments.count))
            say(f"{store}: {found[store]}")
            for call, one in found[store].items():
                table.append((store, call, one["per_s"], one["ms"]["p50"], one["ms"]["p99"]))
    finish({"stores": found, "callers": CALLERS, "hardware": hardware()}, table, only_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
