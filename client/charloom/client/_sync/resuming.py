"""A blocking call of Generate that is made again where it broke off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc

from charloom.client._connection import CallContext
from charloom.client._resumption import LONGEST, Resumption
from charloom.client._statuses import cancelled
from charloom.client._sync.reading import Call
from charloom.v1 import generation_pb2

Open = Callable[[generation_pb2.GenerateRequest, float | None], Call]
"""Makes the call, with a deadline in seconds."""


class ResumingCall:
    """A blocking call that looks like one to its reader, however often it is made. Any thread may cancel it."""

    def __init__(self, open: Open, resumption: Resumption, context: CallContext) -> None:
        self._open = open
        self._resumption = resumption
        self._context = context
        self._cancelled = threading.Event()
        self._call = open(resumption.request(), resumption.seconds_left())

    @property
    def resumptions(self) -> int:
        """How often it was resumed after a break."""
        return self._resumption.count

    def cancel(self) -> None:
        """End the call, or the wait for the next one."""
        self._cancelled.set()
        self._call.cancel()

    def __next__(self) -> generation_pb2.GenerateResponse:
        resumption = self._resumption
        while not resumption.over:
            if resumption.pause is not None:
                self._make_again(resumption.pause)
            try:
                return resumption.arrived(next(self._call))
            except StopIteration:
                last = resumption.ended()
            except grpc.RpcError as error:
                last = resumption.broke(error, stopped=self._is_stopped())
            if last is not None:
                return last
        raise StopIteration

    def _make_again(self, pause: float) -> None:
        until = time.monotonic() + pause
        # In steps, because nothing notifies this wait when the client is closed.
        while not self._is_stopped() and (left := until - time.monotonic()) > 0:
            self._cancelled.wait(min(left, LONGEST))
        if self._is_stopped():
            raise cancelled(self._context.request_id)
        self._call = self._open(self._resumption.request(), self._resumption.seconds_left())
        if self._cancelled.is_set():
            # Another thread stopped it meanwhile, and may have cancelled the call before this one.
            self._call.cancel()

    def _is_stopped(self) -> bool:
        return self._cancelled.is_set() or self._context.closed
