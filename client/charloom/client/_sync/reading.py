"""Reading a blocking call of Generate message by message.

Knows gRPC and how its calls end. The meaning of the messages is up to the `Record` that takes them in.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol

import grpc

from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.client._statuses import from_rpc_error
from charloom.client._transcript import Outcome_co, Piece_co, Record
from charloom.v1 import generation_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_READ_ELSEWHERE = "another thread is reading this stream; let one thread read it, or give each a stream of its own"


class Call(Protocol):
    """The part of a call that is used here."""

    def __next__(self) -> generation_pb2.GenerateResponse: ...

    def cancel(self) -> object: ...


class Reading(Generic[Piece_co, Outcome_co]):
    """A blocking call, read piece by piece, by one thread at a time; any may cancel it."""

    def __init__(self, call: Call, context: CallContext, record: Record[Piece_co, Outcome_co]) -> None:
        self._call = call
        self._context = context
        self._record = record
        # Raised again by every later use of the call.
        self._failure: CharloomError | None = None
        self._cancelled = False
        self._reader = threading.Lock()

    def cancel(self) -> None:
        """End the call; text that has arrived is kept. May be called twice."""
        self._cancelled = True
        self._call.cancel()

    def _rest(self) -> Outcome_co:
        for _ in self:
            pass
        return self._record.outcome()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece_co:
        # A second reader would get an internal error from gRPC, which also ends the call for the first.
        if not self._reader.acquire(blocking=False):
            raise RuntimeError(_READ_ELSEWHERE)
        try:
            return self._next()
        finally:
            self._reader.release()

    def _next(self) -> Piece_co:
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                piece = self._record.add(next(self._call))
            except StopIteration:
                self._record.outcome()
                raise
            except grpc.RpcError as error:
                self._failure = from_rpc_error(
                    error,
                    self._context.target,
                    stopped=self._cancelled or self._context.closed,
                    request_id=self._context.request_id,
                )
                raise self._failure from error
            except CharloomError as failure:
                self._failure = failure
                self.cancel()
                raise
            except BaseException:
                # For example KeyboardInterrupt, after which nobody may read this call again.
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
