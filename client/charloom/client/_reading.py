"""Reading a call of Generate message by message, blocking and asyncio.

Knows gRPC and how its calls end. What the messages mean is up to the record that each is given to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from charloom.client._errors import CharloomError, cancelled, from_rpc_error
from charloom.v1 import generation_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

Piece_co = TypeVar("Piece_co", covariant=True)
Outcome_co = TypeVar("Outcome_co", covariant=True)


class Call(Protocol):
    """What is used of a blocking call."""

    def __next__(self) -> generation_pb2.GenerateResponse: ...

    def cancel(self) -> object: ...


class AsyncCall(Protocol):
    """What is used of an asyncio call."""

    async def read(self) -> object: ...

    def cancel(self) -> object: ...


class Record(Protocol[Piece_co, Outcome_co]):
    """Takes in messages; makes of them the pieces that a reader sees, and what comes of it in the end."""

    @property
    def ended(self) -> bool:
        """Whether all that was asked for has arrived."""

    def add(self, message: generation_pb2.GenerateResponse) -> Piece_co | None:
        """Take in one message; returns the piece in it, if there is one."""

    def outcome(self) -> Outcome_co:
        """What came of it, once the server has closed the stream; `InternalError` if something is missing."""


class Reading(Generic[Piece_co, Outcome_co]):
    """A blocking call, read piece by piece."""

    def __init__(self, call: Call, target: str, record: Record[Piece_co, Outcome_co]) -> None:
        self._call = call
        self._target = target
        self._record = record
        # Every later look at the call meets the same error again.
        self._failure: CharloomError | None = None

    def cancel(self) -> None:
        """End the call; what has arrived stays. May be called twice."""
        self._call.cancel()

    def _rest(self) -> Outcome_co:
        for _ in self:
            pass
        return self._record.outcome()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece_co:
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                piece = self._record.add(next(self._call))
            except StopIteration:
                self._record.outcome()
                raise
            except grpc.RpcError as error:
                self._failure = from_rpc_error(error, self._target)
                raise self._failure from error
            except CharloomError as failure:
                self._failure = failure
                self.cancel()
                raise
            except BaseException:
                # KeyboardInterrupt, for one: nobody may ever come back to this call.
                self.cancel()
                raise
            if piece is not None:
                return piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._record.ended:
            self.cancel()


class AsyncReading(Generic[Piece_co, Outcome_co]):
    """An asyncio call, read piece by piece; the twin of `Reading`."""

    def __init__(
        self,
        call: AsyncCall,
        target: str,
        record: Record[Piece_co, Outcome_co],
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._call = call
        self._target = target
        self._record = record
        self._failure: CharloomError | None = None
        self._is_closed = is_closed
        self._cancelled = False
        self._loop = asyncio.get_running_loop()

    def cancel(self) -> None:
        """End the call; what has arrived stays. May be called twice."""
        self._cancelled = True
        self._call.cancel()

    async def _rest(self) -> Outcome_co:
        async for _ in self:
            pass
        return self._record.outcome()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece_co:
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                message = await self._call.read()
                if not isinstance(message, generation_pb2.GenerateResponse):
                    break
                piece = self._record.add(message)
            except grpc.RpcError as error:
                self._failure = from_rpc_error(error, self._target)
                raise self._failure from error
            except CharloomError as failure:
                self._failure = failure
                self.cancel()
                raise
            except asyncio.CancelledError:
                # grpc.aio raises this for a cancelled call too, where nobody cancelled the task.
                if self._cancelled or self._is_closed():
                    self._failure = cancelled()
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

    def __del__(self) -> None:
        # The channel of grpc.aio keeps a call alive that nobody else knows any more. The collector may run in any
        # thread, and after the end of the loop there is nothing left to cancel.
        if not self._record.ended:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
