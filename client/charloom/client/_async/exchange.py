"""Streams where each part that is sent gets one answer, over asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from google.protobuf.message import Message

from charloom.client._async.duplex import AsyncDuplex

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered")


class AsyncExchange(Generic[Asked, Answered]):
    """A stream where each part that is sent gets one answer; subclasses define the parts and the answers.

    An asynchronous context manager that closes the call at the end of its block, and cancels it if the block fails.
    """

    def __init__(self, duplex: AsyncDuplex[Asked, Answered]) -> None:
        self._duplex = duplex

    async def close(self) -> None:
        """End the call and wait until the server has done so too. May be called twice."""
        await self._duplex.close()
        while not (self._duplex.over or self._duplex.cancelled):
            await self._duplex.receive()

    def cancel(self) -> None:
        """End the call at once; answers that have arrived are kept. May be called twice."""
        self._duplex.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.cancel()
