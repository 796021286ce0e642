"""Blocking calls of Generate that share a stream of GenerateMany; each looks like a call of its own."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable

import grpc

from charloom.client import _shared_stream
from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._sync.duplex import Duplex
from charloom.v1 import generation_pb2

ManyDuplex = Duplex[generation_pb2.GenerateManyRequest, generation_pb2.GenerateManyResponse]

_Inbox = queue.SimpleQueue[generation_pb2.GenerateResponse | grpc.RpcError | None]
"""Messages of a call that are not read yet. The first entry that is no message is the end: `None` is success."""


class SharedStreams:
    """Makes calls on the present stream, which begins with its first call and is replaced when it is old.

    Args:
        open: begins a stream, with its first message

    """

    def __init__(self, open: Callable[[generation_pb2.GenerateManyRequest], ManyDuplex]) -> None:
        self._open = open
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._present: _Stream | None = None

    def generate(
        self, request: generation_pb2.GenerateRequest, seconds: float | None, context: CallContext
    ) -> SharedCall:
        """Make a call, with a deadline in seconds if it has one."""
        with self._lock:
            asked = _shared_stream.call_of(next(self._numbers), request, seconds, context)
            call = None if self._present is None else self._present.begin(asked, seconds)
            if call is None:
                # In a context of its own: the stream must not take over the trace and the request id of its first call.
                stream = _Stream(contextvars.Context().run(self._open, generation_pb2.GenerateManyRequest()))
                call = stream.begin_first(asked, seconds)
                self._present = stream
            return call

    def forget_parent(self) -> None:
        """Drop streams and locks, in the child of a fork, before it has other threads.

        The threads that read the streams, and those that hold locks, exist only in the parent.
        """
        self._lock = threading.Lock()
        present, self._present = self._present, None
        if present is not None:
            present.abandon()


class SharedCall:
    """A call among those of a stream. One thread reads it; any may cancel it.

    The stream refers to the inbox only, so a call that its reader drops is garbage-collected, which cancels it.

    Args:
        inbox: where its messages arrive
        cancel: tells the server to end this call; may be called by any thread, under any lock
        seconds: until its deadline; `None`: it has none

    """

    def __init__(self, inbox: _Inbox, cancel: Callable[[], None], seconds: float | None) -> None:
        self._inbox = inbox
        self._tell = cancel
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._over = False
        self._failure: grpc.RpcError | None = None

    def __next__(self) -> generation_pb2.GenerateResponse:
        if not self._over:
            arrived = self._wait()
            if not self._over:
                if isinstance(arrived, generation_pb2.GenerateResponse):
                    return arrived
                self._over, self._failure = True, arrived
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    def _wait(self) -> generation_pb2.GenerateResponse | grpc.RpcError | None:
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            return self._inbox.get(timeout=left)
        except queue.Empty:
            self._tell()
            return _shared_stream.deadline_exceeded()

    def cancel(self) -> None:
        """End the call; does nothing if it has ended."""
        if not self._over:
            self._failure, self._over = _shared_stream.call_cancelled(), True
            self._tell()
            self._inbox.put(self._failure)  # wakes its reader

    def __del__(self) -> None:
        self._tell()


class _Stream:
    """One stream, read by a thread of its own."""

    def __init__(self, duplex: ManyDuplex) -> None:
        self._duplex = duplex
        self._lock = threading.Lock()
        self._inboxes: dict[int, _Inbox] = {}
        """Inboxes of the calls that have not ended, by number."""
        self._old_at = time.monotonic() + _shared_stream.AGE
        self._closing = False
        """Whether the stream takes no more calls and is closed after its last one."""

    def begin_first(self, asked: generation_pb2.GenerateCall, seconds: float | None) -> SharedCall:
        """Begin the first call, and only then start to read the stream, so that it cannot end before."""
        call = self._begin(asked, seconds)
        try:
            threading.Thread(target=self._receive, name="charloom-shared-stream", daemon=True).start()
        except RuntimeError:  # no thread could be started to read the stream
            self._duplex.cancel()
            raise
        return call

    def begin(self, asked: generation_pb2.GenerateCall, seconds: float | None) -> SharedCall | None:
        """Begin a call; returns `None` if the stream takes no more calls."""
        with self._lock:
            if time.monotonic() >= self._old_at:
                self._closing = True
                self._close_after_last()
            return None if self._closing else self._begin(asked, seconds)

    def _begin(self, asked: generation_pb2.GenerateCall, seconds: float | None) -> SharedCall:
        inbox: _Inbox = queue.SimpleQueue()
        self._inboxes[asked.number] = inbox
        with contextlib.suppress(CharloomError, RuntimeError):  # the stream is over; `receive` raises the reason
            self._duplex.send(generation_pb2.GenerateManyRequest(calls=[asked]))
        return SharedCall(inbox, functools.partial(self._cancel, asked.number), seconds)

    def _cancel(self, number: int) -> None:
        # The garbage collector calls this too, at any point of any thread, so it takes no lock. If this was the last
        # call, the server's answer closes the stream; so the server is told before the call is dropped here.
        if number in self._inboxes:
            self._duplex.post(generation_pb2.GenerateManyRequest(cancel=[number]))
            self._inboxes.pop(number, None)

    def abandon(self) -> None:
        """End the calls in the child of a fork, which has no thread that reads; tells no server, and takes no lock."""
        inboxes, self._inboxes = self._inboxes, {}
        for inbox in inboxes.values():
            inbox.put(_shared_stream.call_cancelled())

    def _close_after_last(self) -> None:
        if self._closing and not self._inboxes:
            self._duplex.close()

    def _receive(self) -> None:
        problem: CharloomError | None = None
        try:
            while (message := self._duplex.receive()) is not None:
                self._take(message)
                del message  # it may be large, and the next one may come late
        except CharloomError as error:
            problem = error
        finally:
            with self._lock:
                self._closing = True
                inboxes, self._inboxes = self._inboxes, {}
            for inbox in inboxes.values():
                inbox.put(_shared_stream.failure_of_stream(problem))

    def _take(self, message: generation_pb2.GenerateManyResponse) -> None:
        for piece in message.pieces:
            if (inbox := self._inboxes.get(piece.number)) is not None:
                inbox.put(piece.response)
        leaving = _shared_stream.is_leaving(message)
        with self._lock:
            self._closing = self._closing or leaving
            ended = [(self._inboxes.pop(end.number, None), end) for end in message.ends]
            self._close_after_last()
        for inbox, end in ended:
            if inbox is not None:
                inbox.put(_shared_stream.failure_of(end))
