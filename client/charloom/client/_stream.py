"""Text as it arrives, blocking and asyncio. What a stream has seen is kept by one class for both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from charloom.client import _responses
from charloom.client._errors import CharloomError, InternalError, cancelled, from_rpc_error
from charloom.client._types import Result
from charloom.v1 import generation_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

OnResult = Callable[[Result], None]


class _Call(Protocol):
    def __next__(self) -> generation_pb2.GenerateResponse: ...

    def cancel(self) -> object: ...


class _AsyncCall(Protocol):
    async def read(self) -> object: ...

    def cancel(self) -> object: ...


class _Transcript:
    """What has arrived so far. Knows no call."""

    def __init__(self, on_result: OnResult | None) -> None:
        self._on_result = on_result
        self._pieces: list[str] = []
        self.position = 0
        self.result: Result | None = None
        self.failure: CharloomError | None = None

    @property
    def text(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    @property
    def ended(self) -> bool:
        return self.result is not None or self.failure is not None

    def add(self, message: generation_pb2.GenerateResponse) -> str:
        """Take in one message; returns its text."""
        self.position = message.position
        if message.text:
            self._pieces.append(message.text)
        if message.HasField("result"):
            self.result = _responses.result(message.result)
            if self._on_result is not None:
                self._on_result(self.result)
        return message.text

    def fail(self, failure: CharloomError) -> CharloomError:
        """Remember an error, so that every later look at the stream meets it again."""
        self.failure = failure
        return failure

    def outcome(self) -> Result:
        """The result, once the server has closed the stream."""
        if self.result is None:
            raise self.fail(
                InternalError("the server closed the stream without a result", code=grpc.StatusCode.INTERNAL)
            )
        return self.result


class TextStream:
    """Text as it arrives from the server, in pieces of one or more whole characters.

    An iterator of `str`, and a context manager that cancels the call if it is left before the end. Without `with`,
    read it to the end or call `cancel`.

    Every method raises the errors of the call: see `charloom.client.RequestError`. An error does not take back the
    text that arrived before it.
    """

    def __init__(self, call: _Call, target: str, on_result: OnResult | None = None) -> None:
        self._call = call
        self._target = target
        self._transcript = _Transcript(on_result)

    @property
    def text(self) -> str:
        """The text so far."""
        return self._transcript.text

    @property
    def position(self) -> int:
        """Tokens fed and generated since the state was zero, after the last piece; 0 before the first one."""
        return self._transcript.position

    def cancel(self) -> None:
        """End the call. A session keeps the state after the last character that was sent; may be called twice."""
        self._call.cancel()

    def result(self) -> Result:
        """Read what is left of the text and return how the generation ended."""
        for _ in self:
            pass
        return self._transcript.outcome()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._transcript.failure is not None:
            raise self._transcript.failure
        while True:
            try:
                message = next(self._call)
            except StopIteration:
                self._transcript.outcome()
                raise
            except grpc.RpcError as error:
                raise self._transcript.fail(from_rpc_error(error, self._target)) from error
            except BaseException:
                # KeyboardInterrupt, for one: nobody may ever come back to this stream.
                self.cancel()
                raise
            text = self._transcript.add(message)
            if text:
                return text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._transcript.ended:
            self.cancel()


class AsyncTextStream:
    """Text as it arrives from the server, in pieces of one or more whole characters; the twin of `TextStream`.

    An asynchronous iterator of `str`, and an asynchronous context manager that cancels the call if it is left before
    the end. Cancelling the task that reads cancels the call.
    """

    def __init__(
        self,
        call: _AsyncCall,
        target: str,
        on_result: OnResult | None = None,
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._call = call
        self._target = target
        self._transcript = _Transcript(on_result)
        self._is_closed = is_closed
        self._cancelled = False
        self._loop = asyncio.get_running_loop()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._transcript.text

    @property
    def position(self) -> int:
        """Tokens fed and generated since the state was zero, after the last piece; 0 before the first one."""
        return self._transcript.position

    def cancel(self) -> None:
        """End the call. A session keeps the state after the last character that was sent; may be called twice."""
        self._cancelled = True
        self._call.cancel()

    async def result(self) -> Result:
        """Read what is left of the text and return how the generation ended."""
        async for _ in self:
            pass
        return self._transcript.outcome()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._transcript.failure is not None:
            raise self._transcript.failure
        while True:
            try:
                message = await self._call.read()
            except grpc.RpcError as error:
                raise self._transcript.fail(from_rpc_error(error, self._target)) from error
            except asyncio.CancelledError:
                # grpc.aio raises this for a cancelled call too, where nobody cancelled the task.
                if self._cancelled or self._is_closed():
                    raise self._transcript.fail(cancelled()) from None
                self.cancel()
                raise
            except BaseException:
                self.cancel()
                raise
            if not isinstance(message, generation_pb2.GenerateResponse):
                self._transcript.outcome()
                raise StopAsyncIteration
            text = self._transcript.add(message)
            if text:
                return text

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._transcript.ended:
            self.cancel()

    def __del__(self) -> None:
        # The channel of grpc.aio keeps a call alive that nobody else knows any more. The collector may run in any
        # thread, and after the end of the loop there is nothing left to cancel.
        if not self._transcript.ended:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)
