"""The calls of one stream, with answers that the test makes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import pytest

from charloom.engine.errors import InvalidRequest
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.telemetry import CallRecord, set_call
from charloom.server.admission import Admission, Arrival
from charloom.server.grpc.services import many_calls
from charloom.server.grpc.services.many_calls import Generate, ManyCalls, Outbox, Turns
from charloom.v1 import generation_pb2

Answers = AsyncGenerator[generation_pb2.GenerateResponse, None]


class OpenDoor:
    """Lets every call in, and keeps what they say of themselves."""

    carriers = ("traceparent", "tracestate")

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    def begin(self, method: str, scope: object, arrival: Arrival, at_end: object, begun: Any) -> None:
        record = CallRecord(method)
        set_call(record)
        begun(record)
        self.arrivals.append(arrival)


def answered(
    answer: Callable[[], Answers],
    *,
    generate: Generate | None = None,
    admission: OpenDoor | None = None,
    turns: Turns | None = None,
    idle_seconds: float = 60.0,
    most: int = 1000,
    budget: MemoryBudget | None = None,
) -> ManyCalls:
    """The calls of a stream that are all answered so."""

    async def answers(request: generation_pb2.GenerateRequest) -> Answers:
        return answer()

    door = cast(Admission, admission or OpenDoor())
    origin, stopping = Arrival("127.0.0.1", 1), asyncio.Event()
    begin, room = generate or answers, budget or MemoryBudget()
    return ManyCalls(door, origin, begin, turns or Turns(), stopping, idle_seconds, most, room)


async def one() -> Answers:
    yield generation_pb2.GenerateResponse(text="one")


async def endless() -> Answers:
    while True:
        yield generation_pb2.GenerateResponse(text="on and on")
        await asyncio.sleep(0)


async def nothing() -> Answers:
    await asyncio.Event().wait()
    yield generation_pb2.GenerateResponse()


def begin(*numbers: int) -> generation_pb2.GenerateManyRequest:
    return generation_pb2.GenerateManyRequest(calls=[generation_pb2.GenerateCall(number=number) for number in numbers])


async def told(*messages: generation_pb2.GenerateManyRequest, more: bool = False) -> AsyncIterator[Any]:
    """What a client sends, which may have more to say and not say it."""
    for message in messages:
        yield message
    if more:
        await asyncio.Event().wait()


async def ends(calls: ManyCalls, requests: AsyncIterator[Any]) -> dict[int, int]:
    """Codes by number, in the order in which the calls ended."""
    found = {}
    async for message in calls.messages(requests):
        for end in generation_pb2.GenerateManyResponse.FromString(message).ends:
            found[end.number] = end.code
    return found


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_client_that_does_not_read_has_a_bounded_number_of_calls_refused() -> None:
    refused = 0

    async def refusing(request: generation_pb2.GenerateRequest) -> Answers:
        nonlocal refused
        refused += 1
        raise InvalidRequest("prompt", "no " * 100)

    async def requests() -> AsyncIterator[generation_pb2.GenerateManyRequest]:
        for first in range(1000):
            yield begin(*range(first * 100, (first + 1) * 100))

    messages = answered(one, generate=refusing).messages(requests())
    async with contextlib.aclosing(messages):
        await anext(messages)
        await turns(2000)
        before = refused
        await turns(2000)
        assert before == refused < 2 * many_calls.WAITING_BYTES / 300
        async for _ in messages:
            if refused > before:
                return
    raise AssertionError("it does not go on")


async def test_a_message_is_only_larger_than_messages_are_where_one_piece_is() -> None:
    outbox = Outbox()
    sizes = [10, many_calls.MESSAGE_BYTES - 20, 9, 2, many_calls.MESSAGE_BYTES + 1, 3]
    for size in sizes:
        outbox.put(b"x" * size)
    most = many_calls.MESSAGE_BYTES
    assert [len(outbox.take()) for _ in range(4)] == [most - 1, 2, most + 1, 3]
    assert not outbox


async def test_calls_of_all_streams_begin_in_turns() -> None:
    shared, door = Turns(), OpenDoor()
    streams = [answered(one, admission=door, turns=shared) for _ in range(10)]
    reading = [asyncio.ensure_future(ends(calls, told(begin(*range(100))))) for calls in streams]
    begun = [0]
    while not all(read.done() for read in reading):
        await asyncio.sleep(0)
        begun.append(len(door.arrivals))
    assert begun[-1] == 1000
    assert max(after - before for before, after in itertools.pairwise(begun)) <= many_calls.TURN


async def test_a_wrong_message_ends_the_stream_though_its_calls_have_always_more_to_say() -> None:
    messages = answered(endless).messages(told(begin(1, 2), begin(1), more=True))

    async def read() -> None:
        async for _ in messages:
            await turns(3)

    with pytest.raises(InvalidRequest, match="number 1"):
        await asyncio.wait_for(read(), 30)


async def test_a_call_that_ends_as_none_may_end_ends_the_stream() -> None:
    async def broken() -> Answers:
        raise GeneratorExit
        yield  # type: ignore[unreachable]

    with pytest.raises(RuntimeError, match="broke off"):
        await asyncio.wait_for(ends(answered(broken), told(begin(1), more=True)), 30)


async def test_a_call_is_cancelled_once_and_has_time_to_end() -> None:
    ended = []

    async def careful() -> Answers:
        try:
            yield generation_pb2.GenerateResponse(text="begun")
            await asyncio.Event().wait()
        finally:
            await turns(20)
            ended.append(True)

    messages = answered(careful).messages(requests := Sent())
    requests.send(begin(1))
    await anext(messages)
    end = asyncio.ensure_future(anext(messages))
    for _ in range(3):
        requests.send(generation_pb2.GenerateManyRequest(cancel=[1, 1]))
        await turns(3)
    await end
    assert ended == [True]
    await messages.aclose()


class Sent:
    """What a client sends, one after the other."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[generation_pb2.GenerateManyRequest] = asyncio.Queue()

    def send(self, message: generation_pb2.GenerateManyRequest) -> None:
        self._queue.put_nowait(message)

    def __aiter__(self) -> Sent:
        return self

    async def __anext__(self) -> generation_pb2.GenerateManyRequest:
        return await self._queue.get()


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_calls_that_wait_for_others_can_end_before_them(how: str) -> None:
    call = generation_pb2.GenerateCall(number=2)
    if how == "late":
        call.timeout.FromMilliseconds(10)
    messages = answered(nothing, most=1).messages(requests := Sent())
    requests.send(begin(1))
    requests.send(generation_pb2.GenerateManyRequest(calls=[call]))
    requests.send(generation_pb2.GenerateManyRequest(cancel=[2] if how == "cancelled" else []))
    (end,) = generation_pb2.GenerateManyResponse.FromString(await anext(messages)).ends
    assert (end.number, end.code) == (2, 1 if how == "cancelled" else 4)
    await messages.aclose()


async def test_calls_that_wait_for_others_are_refused_where_their_messages_have_no_room_in_memory() -> None:
    calls = [generation_pb2.GenerateCall(number=number) for number in (1, 2, 3)]
    for call in calls:
        call.request.options.prompt = "x" * 600
    budget = MemoryBudget(1000)
    messages = answered(nothing, most=1, budget=budget).messages(requests := Sent())
    for call in calls:
        requests.send(generation_pb2.GenerateManyRequest(calls=[call]))
    (end,) = generation_pb2.GenerateManyResponse.FromString(await anext(messages)).ends
    assert (end.number, end.code) == (3, 8)
    assert "other calls" in end.message
    assert budget.held == calls[1].ByteSize()
    await messages.aclose()
    assert budget.held == 0


@pytest.mark.parametrize("seconds", [-(2**63), -1, 2**63 - 1])
async def test_any_timeout_is_one(seconds: int) -> None:
    call = generation_pb2.GenerateCall(number=1)
    call.timeout.seconds = seconds
    call.timeout.nanos = -(2**31) if seconds < 0 else 2**31 - 1
    calls = answered(nothing if seconds < 0 else one)
    found = await ends(calls, told(generation_pb2.GenerateManyRequest(calls=[call])))
    assert found == {1: 4 if seconds < 0 else 0}


async def test_the_message_of_a_call_is_let_go_while_it_runs() -> None:
    message = begin(1)
    call = message.calls[0]
    call.request.options.prompt = "x"
    asked = call.request
    nobody = [sys.getrefcount(one) for one in (message, call, asked)]
    requests = Sent()
    messages = answered(endless).messages(requests)
    requests.send(message)
    await anext(messages)
    assert [sys.getrefcount(one) for one in (message, call, asked)] == nobody
    await messages.aclose()


async def test_a_stream_that_breaks_off_leaves_nothing_behind() -> None:
    calls = answered(nothing)
    messages = calls.messages(told(begin(1, 2), more=True))
    reading = asyncio.ensure_future(anext(messages))
    await turns(10)
    reading.cancel()
    await asyncio.wait([reading])
    left = weakref.ref(calls)
    del calls, messages, reading
    gc.collect()
    assert left() is None


async def test_a_call_that_comes_at_the_last_moment_keeps_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def requests() -> AsyncIterator[generation_pb2.GenerateManyRequest]:
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(40, come.set)
        monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 70)  # so that both come in one turn of the loop
        await come.wait()
        yield begin(1)
        await asyncio.sleep(0.02)
        yield begin(2)

    assert await ends(answered(one, idle_seconds=60), requests()) == {1: 0, 2: 0}


async def test_of_a_trace_only_what_names_it_is_kept() -> None:
    door = OpenDoor()
    trace = {"traceparent": "00-1-2-01", "tracestate": "x" * (many_calls.CARRIED + 1), "cookie": "secret"}
    call = generation_pb2.GenerateCall(number=1, trace=trace)
    await ends(answered(one, admission=door), told(generation_pb2.GenerateManyRequest(calls=[call])))
    assert [arrival.carried for arrival in door.arrivals] == [{"traceparent": "00-1-2-01"}]
