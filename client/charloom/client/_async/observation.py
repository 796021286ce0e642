"""Text that a model reads as it comes, and what it makes of it, over asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charloom.client import _reading_requests, _responses
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._text_types import Observed
from charloom.v1 import reading_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class AsyncObserver:
    """Reads text as it comes and tells how surprising each token of it is.

    An asynchronous context manager that closes the observation at the end of its block, and cancels it if the block
    fails. A session goes on with the text, and holds it up to the last one that was answered; its `info` does not tell,
    `refresh` does.

    Every method raises the errors of the call: see `charloom.client.RequestError`. They appear with the first text.
    """

    def __init__(self, duplex: AsyncDuplex[reading_pb2.ObserveRequest, reading_pb2.ObserveResponse]) -> None:
        self._duplex = duplex

    async def read(self, text: str) -> Observed:
        """Read a text, and wait for what the model makes of it. One task at a time."""
        await self._duplex.send(_reading_requests.observe_text(text))
        return _responses.observed(await self._duplex.receive())

    async def close(self) -> None:
        """End the observation and wait until the server has done so too. May be called twice."""
        await self._duplex.close()
        while not (self._duplex.over or self._duplex.cancelled):
            await self._duplex.receive()

    def cancel(self) -> None:
        """End the observation at once; what was answered stays. May be called twice."""
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
