"""Load for a server that is running: long streams, short calls, or arrivals among long streams, in one event loop.

It speaks the wire contract through the generated stubs, which cost less than the SDK; it has the SDK's own way only for
calls that share a stream.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import duration_pb2

from charloom.client._access import Access
from charloom.client._async.connection import AsyncConnection
from charloom.client._async.reading import AsyncCall
from charloom.v1 import generation_pb2, text_pb2

WORKLOADS = {
    "long": "clients that read long streams",
    "short": "clients with a session each, four calls of a 32-character prompt and 64 generated characters; a minute "
    "after its last call a session is gone",
    "arrivals": "endless streams and, at random moments among them, single short calls (probes)",
}
LENGTHS = {"long": 1000, "arrivals": 50_000}
"""Default characters of a stream. Those of "arrivals" are nearly endless, yet within a server's usual limit."""
SHORT_CALLS, SHORT_PROMPT, SHORT_LENGTH = 4, 32, 64
SHORT_SECONDS = 60
"""How long a session of "short" is kept without use. Nobody deletes it: that would be a part of what is measured, and a
load that is broken off would leave it behind."""
PROBE_LENGTH = 16
PAUSE = 0.05
"""Seconds between two probes of an idle server; between those of a busy one it is 0 to this, at random."""
REFUSED_PAUSE = 0.1
"""Seconds that an endless stream waits after a refusal."""
FEWEST_GAPS = 10
"""A stream with fewer gaps than these says nothing about fairness."""
_TEXT = "The quality of mercy is not strained. It droppeth as the gentle rain from heaven "


PLAIN = Access(None, ())
"""No encryption, and nobody in particular."""


@dataclass(frozen=True)
class Load:
    """A load: which server, which calls, and how many at a time."""

    target: str
    """Its address."""
    workload: str = "long"
    """One of `WORKLOADS`."""
    streams: int = 64
    """Clients at a time; 0 with "arrivals" measures an idle server."""
    rounds: int = 1
    """Streams or sessions of each client, one after the other."""
    length: int = LENGTHS["long"]
    """Characters of a long stream."""
    probes: int = 200
    """How many "arrivals" makes."""
    prompt: int = 0
    """Characters of a probe's prompt."""
    connections: int = 4
    """That the clients share, at most."""
    timeout: float | None = None
    """Seconds that one call may take."""
    access: Access = PLAIN
    """Who the clients are."""
    shared_stream: bool = False
    """Whether the calls of a connection share one stream."""


@dataclass
class Seen:
    """What one call measured."""

    began: float
    times: list[float] = field(default_factory=list)
    """When each message with text arrived."""
    characters: int = 0
    messages: int = 0
    """All of them, with text or without."""
    server_first: float | None = None
    """Seconds to the first token as the server says them."""
    refused_after: float | None = None
    """Seconds until the server said that it takes no more, if it did."""


class Span:
    """A stretch of time, from its making to `end`: when it began, how long it took, and what this process used."""

    def __init__(self) -> None:
        self.began = time.time()
        """Seconds since the epoch."""
        self.seconds = 0.0
        self.cpu = 0.0
        """Seconds on processors."""
        self._clock, self._used = time.perf_counter(), time.process_time()

    def end(self) -> Span:
        """End it now."""
        self.seconds = time.perf_counter() - self._clock
        self.cpu = time.process_time() - self._used
        return self


async def run_load(load: Load) -> dict[str, Any]:
    """Do it and return its figures: see `summary`.

    Raises:
        grpc.aio.AioRpcError: a call failed, otherwise than by being refused because the server has enough work.
    """
    # Channels of one process share a connection unless they are told not to.
    options = [("grpc.use_local_subchannel_pool", 1)]
    connections = [
        AsyncConnection(load.target, load.timeout, load.access, options, shared_stream=load.shared_stream)
        for _ in range(max(1, min(load.connections, load.streams)))
    ]
    try:
        # Connections, code paths and the server's own estimates are warm then.
        await asyncio.gather(*(_WORK[load.workload](load, connection, 0) for connection in connections))
        return await (_arrivals if load.workload == "arrivals" else _rounds)(load, connections)
    finally:
        for connection in connections:
            await connection.close()


async def _rounds(load: Load, connections: Sequence[AsyncConnection]) -> dict[str, Any]:
    """All clients at once, each with its rounds one after the other."""
    work = _WORK[load.workload]

    async def client(number: int) -> list[Seen]:
        found: list[Seen] = []
        for turn in range(load.rounds):
            found += await work(load, connections[number % len(connections)], number + turn * load.streams)
        return found

    span = Span()
    found = await asyncio.gather(*(client(number) for number in range(load.streams)))
    return summary([seen for calls in found for seen in calls], span.end())


async def _arrivals(load: Load, connections: Sequence[AsyncConnection]) -> dict[str, Any]:
    """Probes one after the other, while the streams run."""
    streams: list[Seen] = []
    probes: list[Seen] = []

    async def endless(number: int) -> None:
        # The first one is shorter, by another amount for each client, so that they do not all start again at once.
        length = max(1, load.length * (number + 1) // load.streams)
        for turn in itertools.count():
            streams.append(Seen(time.perf_counter()))
            options = generation_pb2.GenerationOptions(max_tokens=length, seed=number + turn * load.streams)
            seen = await read(load, connections[number % len(connections)], options, streams[-1])
            if seen.refused_after is not None:
                await asyncio.sleep(REFUSED_PAUSE)
            length = load.length

    async def probing() -> Span:
        while any(not seen.times and seen.refused_after is None for seen in streams[: load.streams]):
            await asyncio.sleep(0.01)
        for seen in streams:  # what came before the first probe does not count
            seen.times.clear()
            seen.characters = 0
        moments, span = random.Random(0), Span()
        for number in range(load.probes):
            await asyncio.sleep(moments.uniform(0, PAUSE) if load.streams else PAUSE)
            probes.extend(await _probe(load, connections[number % len(connections)], number))
        return span.end()

    clients = [asyncio.create_task(endless(number)) for number in range(load.streams)]
    await asyncio.sleep(0)  # each has an entry in `streams` then
    measured = asyncio.create_task(probing())
    try:
        done, _ = await asyncio.wait([measured, *clients], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (measured, *clients):
            task.cancel()
        await asyncio.gather(measured, *clients, return_exceptions=True)
    return summary(streams, measured.result(), probes=probes)


# What one client does in one turn; its number tells it from all others.


async def _long_stream(load: Load, connection: AsyncConnection, number: int) -> list[Seen]:
    options = generation_pb2.GenerationOptions(max_tokens=load.length, seed=number)
    return [await read(load, connection, options, Seen(time.perf_counter()))]


async def _short_session(load: Load, connection: AsyncConnection, number: int) -> list[Seen]:
    # As the SDK has it: the first call makes the session.
    session = secrets.token_urlsafe(16)
    new = generation_pb2.NewSession(time_to_live=duration_pb2.Duration(seconds=SHORT_SECONDS))
    options = _prompted(SHORT_PROMPT, session_id=session, new_session=new, seed=number, max_tokens=SHORT_LENGTH)
    return [await read(load, connection, options, Seen(time.perf_counter())) for _ in range(SHORT_CALLS)]


async def _probe(load: Load, connection: AsyncConnection, number: int) -> list[Seen]:
    options = _prompted(load.prompt, seed=number, max_tokens=PROBE_LENGTH)
    return [await read(load, connection, options, Seen(time.perf_counter()))]


_WORK: dict[str, Callable[[Load, AsyncConnection, int], Awaitable[list[Seen]]]] = {
    "long": _long_stream,
    "short": _short_session,
    "arrivals": _probe,
}


def _prompted(characters: int, **fields: Any) -> generation_pb2.GenerationOptions:
    unknown = text_pb2.UNKNOWN_CHARACTERS_SKIP
    return generation_pb2.GenerationOptions(prompt=prompt_text(characters), unknown_characters=unknown, **fields)


def prompt_text(characters: int) -> str:
    """A prompt of this length."""
    return "".join(itertools.islice(itertools.cycle(_TEXT), characters))


async def read(load: Load, connection: AsyncConnection, options: generation_pb2.GenerationOptions, seen: Seen) -> Seen:
    """Read one generation to its end; `seen` is filled as it goes, and returned."""
    request = generation_pb2.GenerateRequest(options=options)
    call: AsyncCall
    if load.shared_stream:
        call = connection.generate(connection.new_call(), request, load.timeout)
    else:
        call = connection.generation.Generate(request, timeout=load.timeout, metadata=load.access.metadata)
    try:
        while isinstance(message := await call.read(), generation_pb2.GenerateResponse):
            seen.messages += 1
            if message.text:
                seen.times.append(time.perf_counter())
                seen.characters += len(message.text)
            if message.HasField("result"):
                seen.server_first = message.result.timings.first_token.ToNanoseconds() / 1e9
    except grpc.aio.AioRpcError as problem:
        if not is_refusal(problem) or seen.times:
            raise
        seen.refused_after = time.perf_counter() - seen.began
    return seen


def is_refusal(problem: grpc.aio.AioRpcError) -> bool:
    """Whether the server said that it has as much work, or as many sessions, as it takes."""
    return problem.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Figures.


def summary(calls: Sequence[Seen], span: Span, *, probes: Sequence[Seen] | None = None) -> dict[str, Any]:
    """Figures of a load: rates per second, times in milliseconds, CPU in cores.

    "began" is in seconds since the epoch, "seconds" what the load took without its warm-up. "ttfc_ms" is the time to
    the first character, of the probes where there are any; "gap_ms" the time between two messages of one stream;
    "gap_max_over_median" the largest gap of a stream over its median one; "way_ms" what the first character took longer
    than the server's own time to the first token. A figure that nothing was seen for is None.
    "refusal_ms" is there only if there were refusals.

    Args:
        calls: what they saw
        span: when and how long
        probes: what single calls among the others saw
    """
    everything = [*calls, *(probes or ())]
    accepted = [seen for seen in everything if seen.refused_after is None]
    refusals = [seen.refused_after for seen in everything if seen.refused_after is not None]
    gaps = [gaps_of(seen) for seen in calls]
    unfair = [max(one) / statistics.median(one) for one in gaps if len(one) >= FEWEST_GAPS]
    begun = [seen for seen in (calls if probes is None else probes) if seen.times]
    first = [seen.times[0] - seen.began for seen in begun]
    way = [after - seen.server_first for after, seen in zip(first, begun, strict=True) if seen.server_first is not None]
    elapsed = span.seconds
    figures = {
        "began": round(span.began, 3),
        "seconds": round(elapsed, 3),
        "chars_per_s": round(sum(seen.characters for seen in everything) / elapsed),
        "calls_per_s": round(len(accepted) / elapsed, 1),
        "messages_per_s": round(sum(len(seen.times) for seen in everything) / elapsed),
        "messages_per_call": round(sum(seen.messages for seen in accepted) / len(accepted), 2) if accepted else None,
        "ttfc_ms": milliseconds(first),
        "way_ms": milliseconds(way),
        "gap_ms": milliseconds([gap for one in gaps for gap in one]),
        "gap_max_over_median": {"p50": round(percentile(unfair, 50), 2), "max": round(max(unfair), 2)}
        if unfair
        else None,
        "client_cpu": round(span.cpu / elapsed, 2),
        "refused": len(refusals),
    }
    if probes is not None:
        figures["probes"] = len(probes)
        del figures["calls_per_s"], figures["messages_per_call"]  # the streams are not meant to end
    if refusals:
        figures["refusal_ms"] = milliseconds(refusals)
    return figures


def gaps_of(seen: Seen) -> list[float]:
    """Seconds between the messages of a call."""
    return [after - before for before, after in itertools.pairwise(seen.times)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that this share of the values does not exceed, between two of them on a straight line."""
    ranked = sorted(values)
    at = (len(ranked) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (at - low)


def milliseconds(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median and 99th percentile; None of nothing."""
    if not seconds:
        return None
    return {f"p{percent}": round(percentile(seconds, percent) * 1000, 2) for percent in (50, 99)}
