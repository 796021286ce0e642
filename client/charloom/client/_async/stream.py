"""Text as it arrives, over asyncio."""

from __future__ import annotations

from charloom.client._async.reading import AsyncReading
from charloom.client._async.resuming import AsyncResumingCall
from charloom.client._connection import CallContext
from charloom.client._generation_types import Result
from charloom.client._text_types import TokenLogprob
from charloom.client._transcript import OnResult, Transcript


class AsyncTextStream(AsyncReading[str, Result]):
    """Text as it arrives from the server, in pieces of one or more whole characters.

    An asynchronous iterator of `str`, and an asynchronous context manager that cancels the call if it is left before
    the end. Without `async with`, read it to the end or call `cancel`. After either, a session keeps the state after
    the last character that was sent. Cancelling the task that reads cancels the call.

    A stream that breaks off is resumed at the same character, on any server that can, until its deadline; the reader
    only sees a pause. Without a deadline, resuming is given up a minute after the break.

    Every method raises the errors of the call: see `charloom.client.RequestError`. An error does not take back the
    text that arrived before it.
    """

    def __init__(self, call: AsyncResumingCall, context: CallContext, on_result: OnResult) -> None:
        self._resuming = call
        self._transcript = Transcript(on_result)
        super().__init__(call, context, self._transcript)

    @property
    def text(self) -> str:
        """The text so far; may be read from any thread."""
        return self._transcript.text

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Log-probability of each token so far, if `logprobs` is set. In a byte model, text may lag behind tokens."""
        return self._transcript.logprobs

    @property
    def position(self) -> int:
        """Tokens fed and generated since the state was zero, after the last piece; 0 before the first one."""
        return self._transcript.position

    @property
    def resumptions(self) -> int:
        """How often the stream broke off and was resumed."""
        return self._resuming.resumptions

    async def result(self) -> Result:
        """Read the rest of the text, and return how the generation ended."""
        return await self._rest()
