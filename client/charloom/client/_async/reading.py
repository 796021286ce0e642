"""Reading an asyncio call of Generate message by message.

Knows gRPC and how its calls end. The meaning of the messages is up to the `Record` that takes them in.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, Protocol

import grpc

from charloom.client._async.event_loop import is_cancelled, require_running
from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._statuses import cancelled, from_rpc_error
from charloom.client._transcript import Outcome_co, Piece_co, Record
from charloom.v1 import generation_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class AsyncCall(Protocol):
    """The part of a call that is used here."""

    async def read(self) -> object: ...

    def cancel(self) -> object: ...


class AsyncReading(Generic[Piece_co, Outcome_co]):
    """An asyncio call, read piece by piece; the twin of `Reading`."""

    def __init__(
        self,
        call: AsyncCall,
        context: CallContext,
        record: Record[Piece_co, Outcome_co],
    ) -> None:
        self._call = call
        self._context = context
        self._record = record
        self._failure: CharloomError | None = None
        self._cancelled = False
        self._loop = asyncio.get_running_loop()

    def cancel(self) -> None:
        """End the call; text that has arrived is kept. May be called twice."""
        self._cancelled = True
        self._call.cancel()

    async def _rest(self) -> Outcome_co:
        async for _ in self:
            pass
        return self._record.outcome()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece_co:
        require_running(self._loop)
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                message = await self._call.read()
                if not isinstance(message, generation_pb2.GenerateResponse):
                    break
                piece = self._record.add(message)
            except grpc.RpcError as error:
                self._failure = from_rpc_error(
                    error, self._context.target, stopped=self._is_stopped(), request_id=self._context.request_id
                )
                raise self._failure from error
            except CharloomError as failure:
                self._failure = failure
                self.cancel()
                raise
            except asyncio.CancelledError:
                # grpc.aio raises this for a cancelled call too, where nobody cancelled the task.
                if self._is_stopped() and not is_cancelled():
                    self._failure = cancelled(self._context.request_id)
                    raise self._failure from None
                self.cancel()
                raise
            except BaseException:
                self.cancel()
                raise
            if piece is not None:
                return piece
        self._record.outcome()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._record.ended:
            self.cancel()

    def _is_stopped(self) -> bool:
        return self._cancelled or self._context.closed

    def __del__(self) -> None:
        # The channel of grpc.aio keeps a call alive although nothing else refers to it. The garbage collector may run
        # in any thread, and after the end of the loop there is nothing left to cancel.
        if not self._record.ended:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
