"""Parts that a server answers one by one as they come, over asyncio."""

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
    """Sends parts that are answered one by one; those who inherit say what they are and what is told of them.

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
        """End the call at once; what was answered stays. May be called twice."""
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
