"""Several continuations of one state as they arrive, over asyncio."""

from __future__ import annotations

from charloom.client._async.reading import AsyncCall, AsyncReading
from charloom.client._connection import CallContext
from charloom.client._generation_types import Completion
from charloom.client._transcript import OnResult, Transcripts


class AsyncContinuations(AsyncReading[tuple[int, str], list[Completion]]):
    """Several continuations of one state as they arrive from the server, in any order.

    An asynchronous iterator of pairs: the index of a continuation, from 0, and a piece of its text. An asynchronous
    context manager that cancels the call if it is left before all texts have ended. Without `async with`, read it to
    the end or call `cancel`. Cancelling the task that reads cancels the call.

    Each continuation has its own seed, which is in its result. With more than one, the session does not change: to
    continue it with the text you like, call `generate` with the seed of that text.

    Every method raises the errors of the call: see `charloom.client.RequestError`. An error does not take back the
    texts that arrived before it.
    """

    def __init__(self, call: AsyncCall, context: CallContext, n: int, on_result: OnResult) -> None:
        self._transcripts = Transcripts(n, on_result)
        super().__init__(call, context, self._transcripts)

    @property
    def texts(self) -> list[str]:
        """The text of each continuation so far."""
        return self._transcripts.texts

    async def completions(self) -> list[Completion]:
        """Read all texts to their ends and return the continuations in the order of their indices."""
        return await self._rest()
