"""Calls where both sides send messages as they please, blocking and asyncio.

Knows gRPC and how its calls end. What the messages mean is up to who sends and receives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from charloom.client._errors import CharloomError, cancelled, from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Request_contra = TypeVar("Request_contra", contravariant=True)

_CLOSED = "this stream is closed; begin a new one"


class DuplexCall(Protocol[Response_co]):
    """What is used of a blocking call."""

    def __next__(self) -> Response_co: ...

    def add_callback(self, callback: Callable[[], None]) -> bool: ...

    def is_active(self) -> bool: ...

    def cancel(self) -> object: ...


class AsyncDuplexCall(Protocol[Request_contra]):
    """What is used of an asyncio call."""

    def done(self) -> bool: ...

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...

    async def wait_for_connection(self) -> None: ...

    async def read(self) -> object: ...

    async def write(self, request: Request_contra, /) -> None: ...

    async def done_writing(self) -> None: ...

    def cancel(self) -> object: ...


class Outbox(Generic[Request]):
    """Messages for the server: any thread puts them in, and a thread of gRPC's takes them out and waits for more."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._closed = False

    def put(self, message: Request) -> int:
        """Send a message; returns its number, from 0.

        Raises:
            RuntimeError: after `close`.

        """
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            self._queue.put(message)
            self._count += 1
            return self._count - 1

    def close(self) -> None:
        """Send nothing more, which lets gRPC's thread go. May be called twice."""
        with self._lock:
            self._closed = True
            self._queue.put(None)

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        message = self._queue.get()
        if message is None:
            raise StopIteration
        return message


class Duplex(Generic[Request, Response]):
    """A blocking call. `receive` is for one thread at a time, all else for any."""

    def __init__(self, open: Callable[[Iterator[Request]], DuplexCall[Response]], first: Request, target: str) -> None:
        self._target = target
        self._outbox: Outbox[Request] = Outbox()
        self._outbox.put(first)
        self._failure: CharloomError | None = None
        self.over = False
        """Whether the server has closed the call, well or badly, and the reader knows."""
        self.cancelled = False
        self._call = open(self._outbox)
        if not self._call.add_callback(self._outbox.close):
            self._outbox.close()

    def send(self, message: Request) -> int:
        """Send a message; returns its number, where the first one of all is 0.

        Raises:
            CharloomError: the call has failed.
            RuntimeError: it was closed.

        """
        if self._failure is not None:
            raise self._failure
        if isinstance(self._call, grpc.RpcError) and not self._call.is_active() and not self._is_ok(self._call):
            raise from_rpc_error(self._call, self._target) from self._call
        return self._outbox.put(message)

    def receive(self) -> Response | None:
        """The next message; `None` once the server has closed the call.

        Raises:
            CharloomError: the call has failed.

        """
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._call)
        except StopIteration:
            self.over = True
            return None
        except grpc.RpcError as error:
            self.over = True
            self._failure = from_rpc_error(error, self._target)
            raise self._failure from error
        except BaseException:
            # KeyboardInterrupt, for one: nobody may ever come back to this call.
            self.cancel()
            raise

    def close(self) -> None:
        """Tell the server that nothing more will be sent."""
        self._outbox.close()

    def cancel(self) -> None:
        """End the call. May be called twice."""
        self.cancelled = True
        self._call.cancel()

    @staticmethod
    def _is_ok(call: grpc.RpcError) -> bool:
        return call.code() is grpc.StatusCode.OK


class AsyncDuplex(Generic[Request, Response]):
    """An asyncio call; the twin of `Duplex`. `receive` is for one task at a time, all else for any.

    The first message is sent with the first that follows, or when something is read.
    """

    def __init__(
        self,
        call: AsyncDuplexCall[Request],
        first: Request,
        response: type[Response],
        target: str,
        is_closed: Callable[[], bool],
    ) -> None:
        self.over = False
        """Whether the server has closed the call, well or badly, and the reader knows."""
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._first: Request | None = first
        self._response = response
        self._target = target
        self._is_closed = is_closed
        self.cancelled = False
        self._closed = False
        self._connected = False
        # gRPC takes one message at a time.
        self._lock = asyncio.Lock()
        self._count = 0
        self._failure: CharloomError | None = None

    async def send(self, message: Request) -> int:
        """Send a message; returns its number, where the first one of all is 0.

        Raises:
            CharloomError: the call has failed.
            RuntimeError: it was closed.

        """
        if self._failure is not None:
            raise self._failure
        async with self._lock:
            await self._require_well()
            if self._closed or self._call.done():
                raise RuntimeError(_CLOSED)
            await self._send_first()
            await self._write(message)
            self._count += 1
            number = self._count
        await self._require_well()
        return number

    async def receive(self) -> Response | None:
        """The next message; `None` once the server has closed the call.

        Raises:
            CharloomError: the call has failed.

        """
        if self._failure is not None:
            raise self._failure
        if self._first is not None:
            async with self._lock:
                await self._send_first()
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._tell_cancellations_apart()
            raise
        if isinstance(message, self._response):
            return message
        self.over = True
        return None

    async def close(self) -> None:
        """Tell the server that nothing more will be sent. May be called twice."""
        self._closed = True
        async with self._lock:
            await self._send_first()
            # What is wrong with a call that is over is told to who reads it.
            with contextlib.suppress(Exception):
                await self._call.done_writing()

    def cancel(self) -> None:
        """End the call. May be called twice."""
        self.cancelled = True
        self._call.cancel()

    async def _send_first(self) -> None:
        if self._first is not None:
            first, self._first = self._first, None
            await self._write(first)

    async def _write(self, message: Request) -> None:
        """Send a message, or none if the server has closed the call: reading tells why it did."""
        try:
            if not self._connected:
                await self._connect()
            # `write` does the same, and then, if the server closes the call meanwhile, puts an error of its own before
            # messages that are still to be read and before the server's own error.
            core = getattr(self._call, "_cython_call", None)
            if core is None:
                await self._call.write(message)
            else:
                await core.send_serialized_message(message.SerializeToString())
        except asyncio.CancelledError:
            self._tell_cancellations_apart()
            raise
        except Exception:  # gRPC has several of its own here, not all of them public
            return

    async def _connect(self) -> None:
        """Wait until messages can be sent, or the call is over."""
        over = asyncio.Event()
        self._call.add_done_callback(lambda _: over.set())
        # By itself the first one would wait forever for a call that is cancelled meanwhile.
        waits = [asyncio.ensure_future(wait) for wait in (self._call.wait_for_connection(), over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._connected = True

    async def _require_well(self) -> None:
        """Raise the error that the call has ended with, if it has."""
        if not self._call.done():
            return
        try:
            await self._call.read()
        except grpc.RpcError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._tell_cancellations_apart()
            raise

    def _fail(self, error: grpc.RpcError) -> NoReturn:
        self.over = True
        self._failure = from_rpc_error(error, self._target)
        raise self._failure from error

    def _tell_cancellations_apart(self) -> None:
        # grpc.aio raises CancelledError for a cancelled call too, where nobody cancelled the task.
        if self.cancelled or self._is_closed():
            self.over = True
            self._failure = cancelled()
            raise self._failure from None
        self.cancel()

    def __del__(self) -> None:
        # The channel of grpc.aio keeps a call alive that nobody else knows any more. The collector may run in any
        # thread, and after the end of the loop there is nothing left to cancel.
        if not self.over:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
