"""Asyncio calls of Generate that share a stream of GenerateMany; each looks like a call of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
from collections import deque
from collections.abc import Callable

import grpc.aio

from charloom.client import _shared_stream
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._statuses import cancelled
from charloom.v1 import generation_pb2

AsyncManyDuplex = AsyncDuplex[generation_pb2.GenerateManyRequest, generation_pb2.GenerateManyResponse]


class AsyncSharedStreams:
    """Makes calls on the present stream, which begins with its first call and is replaced when it is old.

    Args:
        open: begins a stream, with its first message

    """

    def __init__(self, open: Callable[[generation_pb2.GenerateManyRequest], AsyncManyDuplex]) -> None:
        self._open = open
        self._numbers = itertools.count()
        self._present: _Stream | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """One per stream that is not over."""

    def generate(
        self, request: generation_pb2.GenerateRequest, seconds: float | None, context: CallContext
    ) -> AsyncSharedCall:
        """Make a call, with a deadline in seconds if it has one."""
        if self._present is None or not self._present.takes_calls():
            # In a context of its own: the stream must not take over the trace and the request id of its first call.
            self._present = contextvars.Context().run(self._begin_stream)
        return self._present.begin(_shared_stream.call_of(next(self._numbers), request, seconds, context), seconds)

    def _begin_stream(self) -> _Stream:
        stream = _Stream(self._open(generation_pb2.GenerateManyRequest()))
        task = asyncio.get_running_loop().create_task(stream.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def wait_until_over(self) -> None:
        """Wait until the streams are over, after their channel was closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)


class AsyncSharedCall:
    """A call among those of a stream.

    Args:
        cancel: tells the server to end this call

    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._tell = cancel
        # An asyncio.Queue would do the same, and take longer for each message.
        self._inbox: deque[object] = deque()
        """Messages that have arrived and are not read yet. The first entry that is no message is the end."""
        self._news = asyncio.Event()
        self._end: object = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> object:
        """Return the next message; anything that is no message is the end.

        Raises:
            grpc.RpcError: the call has failed.
            asyncio.CancelledError: the call was cancelled, or the task was.

        """
        while self._end is None:
            if self._inbox:
                arrived = self._inbox.popleft()
                if isinstance(arrived, generation_pb2.GenerateResponse):
                    return arrived
                self._end = arrived
            else:
                self._news.clear()
                await self._news.wait()
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end

    def cancel(self) -> None:
        """End the call; does nothing if it has ended."""
        if self._end is None:
            self._end = asyncio.CancelledError()
            self._tell()
            self.arrive_last(self._end)

    def expire_after(self, seconds: float) -> None:
        """End the call after this many seconds, in case the server does not."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def arrive(self, message: object) -> None:
        """Take in a message of this call."""
        self._inbox.append(message)
        self._news.set()

    def arrive_last(self, end: object) -> None:
        """Take in the end of this call: an error, or a value that stands for success."""
        if self._timer is not None:
            self._timer.cancel()
        self.arrive(end)

    def _expire(self) -> None:
        self._tell()
        self.arrive_last(_shared_stream.deadline_exceeded())


class _Stream:
    """One stream: calls and cancellations are gathered for the next message while the last one is being sent."""

    def __init__(self, duplex: AsyncManyDuplex) -> None:
        self._duplex = duplex
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, AsyncSharedCall] = {}
        """Calls that have not ended, by number."""
        self._begun: dict[int, generation_pb2.GenerateCall] = {}
        """Calls that are not sent to the server yet, by number."""
        self._cancelled: list[int] = []
        self._news = asyncio.Event()
        """Set when there is something to send, or when nothing more will be sent."""
        self._old_at = self._loop.time() + _shared_stream.AGE
        self._closing = False
        """Whether the stream takes no more calls and is closed after its last one."""

    def takes_calls(self) -> bool:
        """Whether new calls may begin on this stream."""
        if not self._closing and self._loop.time() >= self._old_at:
            self._closing = True
            self._news.set()
        return not self._closing

    def begin(self, asked: generation_pb2.GenerateCall, seconds: float | None) -> AsyncSharedCall:
        """Begin a call; `seconds` is its deadline, or None."""
        call = self._calls[asked.number] = AsyncSharedCall(functools.partial(self._cancel, asked.number))
        if seconds is not None:
            call.expire_after(seconds)
        self._begun[asked.number] = asked
        self._news.set()
        return call

    def _cancel(self, number: int) -> None:
        if self._calls.pop(number, None) is not None:
            # A message lists cancellations before new calls, so a call that was not sent yet is only dropped.
            if self._begun.pop(number, None) is None:
                self._cancelled.append(number)
            self._news.set()

    async def run(self) -> None:
        """Send and receive until the stream is over."""
        sending = self._loop.create_task(self._send())
        problem: CharloomError | None = cancelled()  # unless the stream ends in another way
        try:
            while (message := await self._duplex.receive()) is not None:
                self._take(message)
                del message  # it may be large, and the next one may come late
            problem = None
        except CharloomError as error:
            problem = error
        finally:
            self._closing = True
            calls, self._calls = self._calls, {}
            for call in calls.values():
                call.arrive_last(_shared_stream.failure_of_stream(problem))
            sending.cancel()
            await asyncio.wait([sending])

    async def _send(self) -> None:
        with contextlib.suppress(CharloomError, RuntimeError):  # the stream is over; `receive` raises the reason
            while self._calls or self._cancelled or not self._closing:
                await self._news.wait()
                self._news.clear()
                for message in _shared_stream.taken(self._begun, self._cancelled):
                    await self._duplex.send(message)
                    del message
            await self._duplex.close()

    def _take(self, message: generation_pb2.GenerateManyResponse) -> None:
        for piece in message.pieces:
            if (call := self._calls.get(piece.number)) is not None:
                call.arrive(piece.response)
        for end in message.ends:
            if (call := self._calls.pop(end.number, None)) is not None:
                call.arrive_last(_shared_stream.failure_of(end) or grpc.aio.EOF)
        self._closing = self._closing or _shared_stream.is_leaving(message)
        if self._closing and not self._calls:
            self._news.set()
