"""The clients of the soak: well-behaved, hurried, deaf, mistaken and vanishing ones, in one process.

    python -m benchmarks.mixed --target HOST:PORT --seconds S

It prints one JSON object: how many calls ended with which status, which of those should not have, and the sessions that
it has left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import duration_pb2

from charloom.controls import controls
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

READERS, TALKERS, CANCELLERS, HASTY, DEAF, MISTAKEN = 8, 16, 4, 4, 4, 2
NAMES = 50
"""Sessions that a talker has names for. They come again, since a server remembers the names of forgotten sessions."""
ENDLESS = 60_000
DEAF_SECONDS = 2.0
RELEASE_SECONDS = 10.0
"""How long a session may stay in use after its call was cancelled."""
Code = grpc.StatusCode
Options = generation_pb2.GenerationOptions


class Mixed:
    """The clients, and what they count."""

    def __init__(self, channel: grpc.aio.Channel, end: float) -> None:
        self.statuses: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.kept: list[str] = []
        self._channel: Any = channel  # the types know no calls that send bytes
        self._end = end
        self._random = random.Random(0)
        self._generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self._sessions: Any = sessions_pb2_grpc.SessionServiceStub(channel)

    async def run(self) -> None:
        """All of them, until the time is up."""
        roles: dict[Callable[[int], Awaitable[None]], int] = {
            self._reader: READERS,
            self._talker: TALKERS,
            self._canceller: CANCELLERS,
            self._hasty: HASTY,
            self._deaf: DEAF,
            self._mistaken: MISTAKEN,
        }
        await asyncio.gather(*(role(number) for role, count in roles.items() for number in range(count)))

    @property
    def _going(self) -> bool:
        return time.monotonic() < self._end

    async def _ask(self, what: str, call: Awaitable[Any], *allowed: Code) -> Code:
        """Await an answer and count its status."""
        try:
            await call
            code, said = Code.OK, None
        except grpc.aio.AioRpcError as problem:
            code, said = problem.code(), problem.details()
        self._count(what, code, said, allowed or (Code.OK,))
        if code not in (allowed or (Code.OK,)):
            await asyncio.sleep(0.1)
        return code

    def _count(self, what: str, code: Code, said: str | None, allowed: Sequence[Code]) -> None:
        self.statuses[code.name] += 1
        if code not in allowed:
            self.unexpected[f"{what}: {code.name}: {(said or '')[:100]}"] += 1
            if code is Code.UNAVAILABLE:  # nobody is there any more
                self._end = 0

    async def _generate(self, what: str, options: Options, *allowed: Code, timeout: float | None = None) -> None:
        request = generation_pb2.GenerateRequest(options=options)
        await self._ask(what, _drained(self._generation.Generate(request, timeout=timeout)), *allowed)

    async def _create(self, name: str, seconds: int | None = None) -> None:
        request = sessions_pb2.CreateSessionRequest(session_id=name)
        if seconds:
            request.time_to_live.CopyFrom(duration_pb2.Duration(seconds=seconds))
        await self._ask("create", self._sessions.CreateSession(request))

    async def _delete(self, name: str) -> None:
        """Delete a session, as soon as its last call lets it."""
        until = time.monotonic() + RELEASE_SECONDS
        request = sessions_pb2.DeleteSessionRequest(session_id=name)
        while time.monotonic() < until:
            if (
                await self._ask("delete", self._sessions.DeleteSession(request), Code.OK, Code.ABORTED)
                is not Code.ABORTED
            ):
                return
            await asyncio.sleep(0.05)
        self.unexpected["delete: still in use long after its call was cancelled"] += 1

    # The clients.

    async def _reader(self, number: int) -> None:
        """Long streams to their end."""
        while self._going:
            await self._generate("read", Options(max_tokens=self._random.randint(200, 2000)))

    async def _talker(self, number: int) -> None:
        """Sessions of short calls. The first stays and is used again; of the others most are deleted, some expire."""
        kept = f"kept-{number}"
        await self._create(kept)
        self.kept.append(kept)
        turn = 0
        while self._going:
            name, expiring = f"talk-{number}-{turn % NAMES}", turn % 4 == 0
            await self._create(name, 1 if expiring else None)
            for session in (name, name, name, kept):
                options = Options(session_id=session, prompt="Speak, ", max_tokens=self._random.randint(1, 64))
                # A session that is to expire may do so between its calls.
                allowed = (Code.OK, Code.NOT_FOUND) if expiring and session == name else (Code.OK,)
                await self._generate("talk", options, *allowed)
            if not expiring:
                await self._delete(name)
            turn += 1

    async def _canceller(self, number: int) -> None:
        """Streams that are cancelled at some moment, every second one in a session."""
        name = f"cancel-{number}"
        while self._going:
            in_session = self._random.random() < 0.5
            if in_session:
                await self._create(name)
            options = Options(session_id=name if in_session else "", max_tokens=ENDLESS)
            call = self._generation.Generate(generation_pb2.GenerateRequest(options=options))
            reading = asyncio.ensure_future(_drained(call))
            await asyncio.sleep(self._random.uniform(0, 0.3))
            call.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await reading
            self._count("cancel", await call.code(), await call.details(), [Code.CANCELLED])
            if in_session:
                await self._delete(name)

    async def _hasty(self, number: int) -> None:
        """Deadlines that expire."""
        while self._going:
            timeout = self._random.uniform(0.001, 0.3)
            await self._generate("hasty", Options(max_tokens=ENDLESS), Code.DEADLINE_EXCEEDED, timeout=timeout)

    async def _deaf(self, number: int) -> None:
        """Streams that are not read after their first message."""
        while self._going:
            call = self._generation.Generate(generation_pb2.GenerateRequest(options=Options(max_tokens=ENDLESS)))
            await self._ask("deaf", call.read())
            await asyncio.sleep(self._random.uniform(0, 2 * DEAF_SECONDS))
            call.cancel()
            # The server may end such a call to make room for others.
            allowed = [Code.CANCELLED, Code.RESOURCE_EXHAUSTED]
            self._count("deaf", await call.code(), await call.details(), allowed)

    async def _mistaken(self, number: int) -> None:
        """Requests that cannot be accepted, each with the status that it should get."""
        name = f"mistaken-{number}"
        await self._create(name)
        while self._going:
            for options, expected in bad_options(name):
                await self._generate(f"bad {_short(options)}", options, expected)
                await asyncio.sleep(0.02)
            for what, call, expected in self._bad_calls(name):
                await self._ask(f"bad {what}", call, expected)
                await asyncio.sleep(0.02)
        await self._delete(name)

    def _bad_calls(self, name: str) -> Iterable[tuple[str, Awaitable[Any], Code]]:
        yield (
            "id that is taken",
            self._sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=name)),
            Code.ALREADY_EXISTS,
        )
        yield (
            "id that is none",
            self._sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="a b/c")),
            Code.INVALID_ARGUMENT,
        )
        yield (
            "page token",
            self._sessions.ListSessions(sessions_pb2.ListSessionsRequest(page_token="?")),
            Code.INVALID_ARGUMENT,
        )
        yield (
            "deletion",
            self._sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="nobody")),
            Code.NOT_FOUND,
        )
        garbage = self._random.randbytes(50)
        for method, expected in (
            ("SessionService/CreateSession", Code.INVALID_ARGUMENT),
            ("GenerationService/Complete", Code.INVALID_ARGUMENT),
            ("GenerationService/Nothing", Code.UNIMPLEMENTED),
        ):
            # A first byte with wire type 7, which does not exist: no message begins so.
            yield (
                f"bytes for {method}",
                self._channel.unary_unary(f"/charloom.v1.{method}")(b"\x0f" + garbage),
                expected,
            )


def bad_options(session: str) -> list[tuple[Options, Code]]:
    """Options that no server of these models accepts, with the status that each should get."""
    samplings: list[dict[str, Any]] = [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0},
        *({control.option: control.highest + 0.5} for control in controls() if math.isfinite(control.highest)),
    ]
    bad = [Options(sampling=generation_pb2.Sampling(**fields)) for fields in samplings]
    bad += [
        Options(max_tokens=0),
        Options(max_tokens=2**32 - 1),
        Options(prompt="snow ☃"),
        Options(prompt="a" * 70_000),
    ]
    return [
        *((options, Code.INVALID_ARGUMENT) for options in bad),
        (Options(model="nobody"), Code.NOT_FOUND),
        (Options(session_id="nobody"), Code.NOT_FOUND),
        (Options(session_id=session, expected_position=2**63), Code.ABORTED),
    ]


async def _drained(call: AsyncIterator[Any]) -> None:
    async for _ in call:
        pass


def _short(options: Options) -> str:
    return str(options).replace("\n", " ")[:40]


async def _main(target: str, seconds: float) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(target) as channel:
        mixed = Mixed(channel, time.monotonic() + seconds)
        await mixed.run()
    return {
        "calls": mixed.statuses.total(),
        "statuses": dict(mixed.statuses),
        "unexpected": dict(mixed.unexpected),
        "sessions": sorted(mixed.kept),
    }


def main() -> int:
    """Run for some time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="address of the server")
    parser.add_argument("--seconds", type=float, required=True, help="how long")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(_main(arguments.target, arguments.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
