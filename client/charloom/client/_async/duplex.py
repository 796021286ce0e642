"""Bidirectional streams over asyncio.

Knows gRPC and how its calls end. What the messages mean is up to the modules that send and receive them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from charloom.client._async.event_loop import is_cancelled, require_running
from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._statuses import cancelled, from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Request_contra = TypeVar("Request_contra", contravariant=True)

_CLOSED = "this stream is closed; begin a new one"


class AsyncDuplexCall(Protocol[Request_contra]):
    """The part of gRPC's call that is used here."""

    def done(self) -> bool: ...

    def add_done_callback(self, callback: Callable[[Any], None], /) -> None: ...

    async def wait_for_connection(self) -> None: ...

    async def read(self) -> object: ...

    async def write(self, request: Request_contra, /) -> None: ...

    async def done_writing(self) -> None: ...

    def cancel(self) -> object: ...


class AsyncDuplex(Generic[Request, Response]):
    """An asyncio call; the twin of `Duplex`. `receive` is for one task at a time, all else for any.

    The first message is sent with the first that follows, or when something is read.
    """

    def __init__(
        self,
        call: AsyncDuplexCall[Request],
        first: Request,
        context: CallContext,
    ) -> None:
        self.over = False
        """Whether the server has closed the call, well or badly, and the reader knows."""
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._first: Request | None = first
        self._context = context
        self.cancelled = False
        self._closed = False
        self._connected = False
        # gRPC takes one message at a time.
        self._lock = asyncio.Lock()
        self._count = 0
        self._failure: CharloomError | None = None

    async def send(self, message: Request) -> int:
        """Send a message; returns its number, counted from 0, which is the one that began the call.

        Raises:
            CharloomError: the call has failed.
            RuntimeError: it was closed, or belongs to another event loop.

        """
        require_running(self._loop)
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
        require_running(self._loop)
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
        if message is grpc.aio.EOF:
            self.over = True
            return None
        return cast("Response", message)

    async def close(self) -> None:
        """Tell the server that nothing more will be sent. May be called twice."""
        self._closed = True
        async with self._lock:
            await self._send_first()
            # `receive` raises the error of a call that has ended.
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
        """Send a message; does nothing if the server has closed the call, because `receive` raises the reason."""
        try:
            if not self._connected:
                await self._connect()
            # `write` does the same, but if the server has closed the call meanwhile, it replaces the server's error and
            # all unread messages with an error of its own. There is no public way around that in grpcio 1.85;
            # tests/unit/client/test_duplex.py shows what is lost, and fails once nothing is.
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
        # `wait_for_connection` alone would wait forever for a call that is cancelled meanwhile.
        waits = [asyncio.ensure_future(wait) for wait in (self._call.wait_for_connection(), over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._connected = True

    async def _require_well(self) -> None:
        """Raise the call's error if it has ended with one."""
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
        self._failure = from_rpc_error(
            error, self._context.target, stopped=self._is_stopped(), request_id=self._context.request_id
        )
        raise self._failure from error

    def _tell_cancellations_apart(self) -> None:
        # grpc.aio raises CancelledError for a cancelled call too, where nobody cancelled the task.
        if self._is_stopped() and not is_cancelled():
            self.over = True
            self._failure = cancelled(self._context.request_id)
            raise self._failure from None
        self.cancel()

    def _is_stopped(self) -> bool:
        return self.cancelled or self._context.closed

    def __del__(self) -> None:
        # The channel of grpc.aio keeps a call alive although nothing else refers to it. The garbage collector may run
        # in any thread, and after the end of the loop there is nothing left to cancel.
        if not self.over:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
