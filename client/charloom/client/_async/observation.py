"""Observing a text part by part: how surprising each token is, over asyncio."""

from __future__ import annotations

from charloom.client import _reading_requests, _reading_responses
from charloom.client._async.exchange import AsyncExchange
from charloom.client._text_types import Observed
from charloom.v1 import reading_pb2


class AsyncObserver(AsyncExchange[reading_pb2.ObserveRequest, reading_pb2.ObserveResponse]):
    """Reads a text part by part, and returns how surprising each token is.

    An asynchronous context manager that closes the observation at the end of its block, and cancels it if the block
    fails. A session keeps the text up to the last part that was answered; its `info` stays as it was, `refresh` fetches
    it.

    Every method raises the errors of the call: see `charloom.client.RequestError`. None is raised before the first
    part is read.
    """

    async def read(self, text: str) -> Observed:
        """Read the next part, and wait for the log-probabilities of its tokens. One task at a time."""
        await self._duplex.send(_reading_requests.observe_text(text))
        return _reading_responses.observed(await self._duplex.receive())
