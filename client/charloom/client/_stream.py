"""Text as it arrives, blocking and asyncio."""

from __future__ import annotations

from collections.abc import Callable

from charloom.client._reading import AsyncCall, AsyncReading, Call, Reading
from charloom.client._transcript import OnResult, Transcript
from charloom.client._types import Result, TokenLogprob


class TextStream(Reading[str, Result]):
    """Text as it arrives from the server, in pieces of one or more whole characters.

    An iterator of `str`, and a context manager that cancels the call if it is left before the end. Without `with`,
    read it to the end or call `cancel`. After either, a session keeps the state after the last character that was sent.

    Every method raises the errors of the call: see `charloom.client.RequestError`. An error does not take back the
    text that arrived before it.
    """

    def __init__(self, call: Call, target: str, on_result: OnResult | None = None) -> None:
        self._transcript = Transcript(on_result)
        super().__init__(call, target, self._transcript)

    @property
    def text(self) -> str:
        """The text so far."""
        return self._transcript.text

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of each token so far, if `logprobs` were asked for. In a byte model the text may lag behind its tokens."""
        return self._transcript.logprobs

    @property
    def position(self) -> int:
        """Tokens fed and generated since the state was zero, after the last piece; 0 before the first one."""
        return self._transcript.position

    def result(self) -> Result:
        """Read what is left of the text and return how the generation ended."""
        return self._rest()


class AsyncTextStream(AsyncReading[str, Result]):
    """Text as it arrives from the server, in pieces of one or more whole characters; the twin of `TextStream`.

    An asynchronous iterator of `str`, and an asynchronous context manager that cancels the call if it is left before
    the end. Cancelling the task that reads cancels the call.
    """

    def __init__(
        self,
        call: AsyncCall,
        target: str,
        on_result: OnResult | None = None,
        is_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._transcript = Transcript(on_result)
        super().__init__(call, target, self._transcript, is_closed)

    @property
    def text(self) -> str:
        """The text so far."""
        return self._transcript.text

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of each token so far, if `logprobs` were asked for. In a byte model the text may lag behind its tokens."""
        return self._transcript.logprobs

    @property
    def position(self) -> int:
        """Tokens fed and generated since the state was zero, after the last piece; 0 before the first one."""
        return self._transcript.position

    async def result(self) -> Result:
        """Read what is left of the text and return how the generation ended."""
        return await self._rest()
