"""An asyncio call of Generate that is made again where it broke off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import grpc.aio

from charloom.client._async.reading import AsyncCall
from charloom.client._connection import CallContext
from charloom.client._resumption import LONGEST, Resumption
from charloom.client._statuses import cancelled
from charloom.v1 import generation_pb2

Open = Callable[[generation_pb2.GenerateRequest, float | None], AsyncCall]
"""Makes the call, with a deadline in seconds."""


class AsyncResumingCall:
    """An asyncio call that looks like one to its reader, however often it is made; the twin of `ResumingCall`."""

    def __init__(self, open: Open, resumption: Resumption, context: CallContext) -> None:
        self._open = open
        self._resumption = resumption
        self._context = context
        self._cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call = open(resumption.request(), resumption.seconds_left())

    @property
    def resumptions(self) -> int:
        """How often it was resumed after a break."""
        return self._resumption.count

    def cancel(self) -> None:
        """End the call, or the wait for the next one."""
        if not self._cancelled.done():
            self._cancelled.set_result(None)
        self._call.cancel()

    async def read(self) -> object:
        """Return the next message; anything that is no message is the end."""
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
        until = time.monotonic() + pause
        # In steps, because nothing notifies this wait when the client is closed.
        while not self._is_stopped() and (left := until - time.monotonic()) > 0:
            await asyncio.wait([self._cancelled], timeout=min(left, LONGEST))
        if self._is_stopped():
            raise cancelled(self._context.request_id)
        self._call = self._open(self._resumption.request(), self._resumption.seconds_left())

    def _is_stopped(self) -> bool:
        return self._cancelled.done() or self._context.closed
