"""The calls of one stream of GenerateMany: each runs in a task of its own; they share one outbox for their answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from google.rpc import status_pb2

from charloom.engine.call_end import CallEnd
from charloom.engine.errors import ClientIdle, Draining, InvalidRequest
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.telemetry import CallRecord, current_call
from charloom.server.admission import Admission, Arrival
from charloom.server.codes import OK
from charloom.server.grpc.errors import CANCELLED, DEADLINE_EXCEEDED, failure_of
from charloom.server.grpc.translation.encoded import Answer, encoded_piece
from charloom.server.identity.scopes import SERVICES
from charloom.server.telemetry.calls import tell_deadline
from charloom.v1 import generation_pb2

MOST_AT_ONCE = 1000
"""Most calls that one message may begin, and most that it may cancel."""
TURN = 32
"""Most calls that begin or are cancelled in one turn of the event loop, so that thousands do not delay other calls."""
WAITING_BYTES = 2**16
"""Bytes that may wait to be sent; above, the calls of a stream wait with their next pieces."""
MESSAGE_BYTES = 2**20
"""Most bytes of a message, unless a single piece has more."""
CARRIED = 4096
"""Most characters of a trace header: enough for Trace Context and Baggage, and little to keep."""

SERVICE = "charloom.v1.GenerationService"
METHOD = f"{SERVICE}/Generate"
"""Their method in records: the same as for a call with a stream of its own."""

Generate = Callable[[generation_pb2.GenerateRequest], Awaitable[AsyncGenerator[Answer, None]]]
"""The answers of one call."""


class Outbox:
    """What is to be sent on a stream, as encoded pieces; joined, pieces are the encoding of one message."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, piece: bytes) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes >= WAITING_BYTES:
            self._room.clear()

    async def room(self) -> None:
        """Wait until fewer than `WAITING_BYTES` are waiting."""
        if self._bytes >= WAITING_BYTES:
            await self._room.wait()

    def take(self) -> bytes:
        """Take the next message, if pieces are waiting: all of them, up to `MESSAGE_BYTES`."""
        message = [self._pieces.popleft()]
        size = len(message[0])
        while self._pieces and size + len(self._pieces[0]) <= MESSAGE_BYTES:
            message.append(self._pieces.popleft())
            size += len(message[-1])
        self._bytes -= size
        if self._bytes < WAITING_BYTES:
            self._room.set()
        return b"".join(message)


class Turns:
    """Spreads the work for calls over turns of the event loop, for all streams together."""

    def __init__(self) -> None:
        self._left = asyncio.Semaphore(TURN)

    async def next(self) -> None:
        """Wait until a turn has room for the work for one more call."""
        await self._left.acquire()
        asyncio.get_running_loop().call_soon(self._left.release)


@dataclass
class RunningCall:
    """A call of the stream, until it has ended."""

    task: asyncio.Task[status_pb2.Status]
    timer: asyncio.TimerHandle | None = None
    """Ends the call at its deadline, if it has one."""
    cancelled: bool = False
    """Whether the call is being ended."""
    late: bool = False
    """Whether it is being ended because its deadline has passed."""

    def cancel(self) -> None:
        """End the call. Cancels its task only once: a second time would interrupt its cleanup."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def expire(self) -> None:
        """End the call because its deadline has passed."""
        self.late = not self.cancelled
        self.cancel()


class ManyCalls:
    """The calls of one stream.

    Args:
        admission: lets each call in
        arrival: the stream's credentials, headers and address
        generate: answers a call
        turns: spreads their beginnings over turns of the event loop
        draining: set when the server begins to stop
        idle_seconds: how long the stream may be without calls
        most: the most calls that are answered at a time; others wait
        budget: reserves memory for calls that wait, or refuses them
    """

    def __init__(
        self,
        admission: Admission,
        arrival: Arrival,
        generate: Generate,
        turns: Turns,
        draining: asyncio.Event,
        idle_seconds: float,
        most: int,
        budget: MemoryBudget,
    ) -> None:
        self._admission = admission
        self._arrival = arrival
        self._generate = generate
        self._turns = turns
        self._draining = draining
        self._idle_seconds = idle_seconds
        self._places = asyncio.Semaphore(most)
        """One place for each call that is being answered."""
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, RunningCall] = {}
        """Running calls by number."""
        self._outbox = Outbox()
        self._news = asyncio.Event()
        """Set when something is to be sent, or when the stream may be over."""
        self._broken: BaseException | None = None
        """An unexpected error of a call, which ends the whole stream."""
        self._over = False
        self._idle: asyncio.TimerHandle | None = None
        self._idled = False

    async def messages(
        self, requests: AsyncIterator[generation_pb2.GenerateManyRequest]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the messages to send, until the client has sent everything and all calls have ended.

        Raises:
            InvalidRequest: a message does not fit this stream.
            Draining: the server stops.
            ClientIdle: there was no call for too long.
        """
        reading = asyncio.ensure_future(self._read(requests))
        draining = asyncio.ensure_future(self._draining.wait())
        for waited_for in (reading, draining):
            waited_for.add_done_callback(lambda _: self._news.set())
        self._be_idle()
        try:
            while True:
                if reading.done():
                    reading.result()
                if self._broken is not None:
                    raise RuntimeError("a call of the stream broke off") from self._broken
                if self._outbox:
                    yield self._outbox.take()
                    continue
                if not self._running:
                    if reading.done():
                        return
                    if self._draining.is_set():
                        raise Draining
                    if self._idled:
                        raise ClientIdle(self._idle_seconds)
                await self._news.wait()
                self._news.clear()
        finally:
            self._over = True
            self._be_busy()
            for task in (reading, draining):
                task.cancel()
            calls = list(self._running.values())
            for call in calls:
                call.cancel()
            await asyncio.gather(reading, draining, *(call.task for call in calls), return_exceptions=True)

    async def _read(self, requests: AsyncIterator[generation_pb2.GenerateManyRequest]) -> None:
        async for request in requests:
            await self._take(request)
            del request  # it may be large, and the next one may come late

    async def _take(self, request: generation_pb2.GenerateManyRequest) -> None:
        for field, asked in (("calls", request.calls), ("cancel", request.cancel)):
            if len(asked) > MOST_AT_ONCE:
                raise InvalidRequest(field, f"there are {len(asked)} in one message; send up to {MOST_AT_ONCE}")
        for number in request.cancel:
            if (running := self._running.get(number)) is not None:
                await self._turns.next()
                running.cancel()
        for call in request.calls:
            await self._outbox.room()  # refusals wait for room too
            await self._turns.next()
            self._start(call)

    def _start(self, call: generation_pb2.GenerateCall) -> None:
        if call.number in self._running:
            raise InvalidRequest("number", f"a call of number {call.number} is still running; give each its own")
        self._be_busy()
        seconds = call.timeout.ToNanoseconds() / 1e9 if call.HasField("timeout") else None
        deadline = None if seconds is None else self._loop.time() + seconds
        running = RunningCall(self._loop.create_task(self._run(call, deadline)))
        if deadline is not None:
            running.timer = self._loop.call_at(deadline, running.expire)
        self._running[call.number] = running
        running.task.add_done_callback(functools.partial(self._end, call.number))

    async def _run(self, call: generation_pb2.GenerateCall, deadline: float | None) -> status_pb2.Status:
        end = CallEnd()
        try:
            self._begin(call, end, deadline)
            await self._place(call)
            try:
                number, answers_of = call.number, self._generate(call.request)
                del call  # otherwise it keeps its message alive, with up to a thousand other calls
                async with contextlib.aclosing(await answers_of) as answers:
                    async for answer in answers:
                        self._outbox.put(encoded_piece(number, answer))
                        self._news.set()
                        await self._outbox.room()
            finally:
                self._places.release()
            current_call().code = OK
            return status_pb2.Status()
        except Exception as problem:
            return failure_of(problem)
        finally:
            end.come()

    async def _place(self, call: generation_pb2.GenerateCall) -> None:
        """Wait for a place for a call; its bytes are reserved in the budget while it waits."""
        waiting = self._budget.held_for(call.ByteSize()) if self._places.locked() else contextlib.nullcontext()
        with waiting:
            await self._places.acquire()

    def _begin(self, call: generation_pb2.GenerateCall, end: CallEnd, deadline: float | None) -> None:
        def begun(record: CallRecord) -> None:
            if deadline is not None:
                end.add(lambda: tell_deadline(record, deadline - self._loop.time()))

        ids = (call.request_id,) if call.request_id else ()
        trace = call.trace
        carried = {key: trace[key] for key in self._admission.carriers if key in trace and len(trace[key]) <= CARRIED}
        arrival = replace(self._arrival, request_ids=ids, carried=carried)
        self._admission.begin(METHOD, SERVICES[SERVICE], arrival, end.add, begun)

    def _end(self, number: int, task: asyncio.Task[status_pb2.Status]) -> None:
        call = self._running.pop(number)
        if call.timer is not None:
            call.timer.cancel()
        if self._over:
            return
        self._news.set()
        if not self._running:
            self._be_idle()
        if task.cancelled():
            status = DEADLINE_EXCEEDED if call.late else CANCELLED
        elif (problem := task.exception()) is not None:
            self._broken = problem
            return
        else:
            status = task.result()
        end = generation_pb2.GenerateEnd(
            number=number, code=status.code, message=status.message, details=status.details
        )
        self._outbox.put(generation_pb2.GenerateManyResponse(ends=[end]).SerializeToString())

    def _be_idle(self) -> None:
        self._idle = self._loop.call_later(self._idle_seconds, self._expire)

    def _be_busy(self) -> None:
        self._idled = False
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _expire(self) -> None:
        self._idled = True
        self._news.set()
