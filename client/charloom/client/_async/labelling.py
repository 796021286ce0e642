"""Labelling a text part by part, over asyncio."""

from __future__ import annotations

from charloom.client import _classification
from charloom.client._async.exchange import AsyncExchange
from charloom.client._classification_types import LabelledText
from charloom.v1 import classification_pb2


class AsyncLabeller(AsyncExchange[classification_pb2.ClassifyStreamRequest, classification_pb2.ClassifyStreamResponse]):
    """Reads a text part by part, and returns after each part how probable each label is for the text so far.

    An asynchronous context manager that closes the call at the end of its block, and cancels it if the block fails.

    Every method raises the errors of the call: see `charloom.client.RequestError`. None is raised before the first
    part is read.
    """

    async def read(self, text: str) -> LabelledText:
        """Read the next part, and wait for the label of the text so far. One task at a time."""
        await self._duplex.send(_classification.classify_part(text))
        return _classification.labelled_part(await self._duplex.receive())
