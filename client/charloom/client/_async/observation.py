"""Text that a model reads as it comes, and what it makes of it, over asyncio."""

from __future__ import annotations

from charloom.client import _reading_requests, _reading_responses
from charloom.client._async.exchange import AsyncExchange
from charloom.client._text_types import Observed
from charloom.v1 import reading_pb2


class AsyncObserver(AsyncExchange[reading_pb2.ObserveRequest, reading_pb2.ObserveResponse]):
    """Reads text as it comes and tells how surprising each token of it is.

    An asynchronous context manager that closes the observation at the end of its block, and cancels it if the block
    fails. A session goes on with the text, and holds it up to the last one that was answered; its `info` does not tell,
    `refresh` does.

    Every method raises the errors of the call: see `charloom.client.RequestError`. They appear with the first text.
    """

    async def read(self, text: str) -> Observed:
        """Read a text, and wait for what the model makes of it. One task at a time."""
        await self._duplex.send(_reading_requests.observe_text(text))
        return _reading_responses.observed(await self._duplex.receive())
