"""Bidirectional streams, blocking.

Knows gRPC and how its calls end. What the messages mean is up to the modules that send and receive them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._statuses import from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)

_CLOSED = "this stream is closed; begin a new one"


class DuplexCall(Protocol[Response_co]):
    """The part of gRPC's call that is used here."""

    def __next__(self) -> Response_co: ...

    def add_callback(self, callback: Callable[[], None]) -> bool: ...

    def is_active(self) -> bool: ...

    def cancel(self) -> object: ...


class Outbox(Generic[Request]):
    """Queue of messages for the server: any thread puts them in, a thread of gRPC takes them out."""

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

    def post(self, message: Request) -> None:
        """Send a message without a number; does nothing after `close`. Takes no lock, so finalizers may call it."""
        self._queue.put(message)

    def close(self) -> None:
        """Send nothing more, which ends gRPC's thread. May be called twice."""
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

    def __init__(
        self, open: Callable[[Iterator[Request]], DuplexCall[Response]], first: Request, context: CallContext
    ) -> None:
        self._context = context
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
        """Send a message; returns its number, counted from 0, which is the one that began the call.

        Raises:
            CharloomError: the call has failed.
            RuntimeError: it was closed.

        """
        self._require_well()
        try:
            return self._outbox.put(message)
        except RuntimeError:
            self._require_well()  # it may have failed just now
            raise

    def post(self, message: Request) -> None:
        """Send a message without a number, if the call still takes one; finalizers may call this."""
        self._outbox.post(message)

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
            self._failure = self._error(error)
            raise self._failure from error
        except BaseException:
            # For example KeyboardInterrupt, after which nobody may read this call again.
            self.cancel()
            raise

    def close(self) -> None:
        """Tell the server that nothing more will be sent."""
        self._outbox.close()

    def cancel(self) -> None:
        """End the call. May be called twice."""
        self.cancelled = True
        self._call.cancel()

    def _error(self, error: grpc.RpcError) -> CharloomError:
        return from_rpc_error(
            error,
            self._context.target,
            stopped=self.cancelled or self._context.closed,
            request_id=self._context.request_id,
        )

    def _require_well(self) -> None:
        if self._failure is not None:
            raise self._failure
        if isinstance(self._call, grpc.RpcError) and not self._call.is_active() and not self._is_ok(self._call):
            self.over = True  # an error that is raised now is not raised again at the end of a `with` block
            raise self._error(self._call) from self._call

    @staticmethod
    def _is_ok(call: grpc.RpcError) -> bool:
        return call.code() is grpc.StatusCode.OK
