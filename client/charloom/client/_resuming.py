"""A call of Generate that is made again where it broke off, blocking and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

import grpc
import grpc.aio

from charloom.client._errors import cancelled
from charloom.client._reading import AsyncCall, Call
from charloom.client._resumption import Resumption
from charloom.v1 import generation_pb2

_Call = TypeVar("_Call")

Open = Callable[[generation_pb2.GenerateRequest, float | None], _Call]
"""Makes the call, with a deadline in seconds."""


class ResumingCall:
    """A blocking call that is one to its reader, however often it was made. May be cancelled by another thread."""

    def __init__(self, open: Open[Call], resumption: Resumption, is_closed: Callable[[], bool]) -> None:
        self._open = open
        self._resumption = resumption
        self._is_closed = is_closed
        self._cancelled = threading.Event()
        self._call = open(resumption.request(), resumption.seconds_left())

    @property
    def resumptions(self) -> int:
        """How often it went on after a break."""
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
        self._cancelled.wait(pause)
        if self._is_stopped():
            raise cancelled()
        self._call = self._open(self._resumption.request(), self._resumption.seconds_left())
        if self._cancelled.is_set():
            # By another thread, which may have cancelled the call before this one.
            self._call.cancel()

    def _is_stopped(self) -> bool:
        return self._cancelled.is_set() or self._is_closed()


class AsyncResumingCall:
    """An asyncio call that is one to its reader, however often it was made; the twin of `ResumingCall`."""

    def __init__(self, open: Open[AsyncCall], resumption: Resumption, is_closed: Callable[[], bool]) -> None:
        self._open = open
        self._resumption = resumption
        self._is_closed = is_closed
        self._cancelled = asyncio.Event()
        self._call = open(resumption.request(), resumption.seconds_left())

    @property
    def resumptions(self) -> int:
        """How often it went on after a break."""
        return self._resumption.count

    def cancel(self) -> None:
        """End the call, or the wait for the next one."""
        self._cancelled.set()
        self._call.cancel()

    async def read(self) -> object:
        """The next message; anything else is the end."""
        resumption = self._resumption
        while not resumption.over:
            if resumption.pause is not None:
                await self._make_again(resumption.pause)
            try:
                message = await self._call.read()
            except grpc.RpcError as error:
                last = resumption.broke(error, stopped=self._is_stopped())
            else:
                if isinstance(message, generation_pb2.GenerateResponse):
                    return resumption.arrived(message)
                last = resumption.ended()
            if last is not None:
                return last
        return grpc.aio.EOF

    async def _make_again(self, pause: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), pause)
        if self._is_stopped():
            raise cancelled()
        self._call = self._open(self._resumption.request(), self._resumption.seconds_left())

    def _is_stopped(self) -> bool:
        return self._cancelled.is_set() or self._is_closed()
