"""A text that is steered while it is generated, over asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charloom.client import _conversation_requests, _responses
from charloom.client._async.duplex import AsyncDuplex
from charloom.client._conversation_types import ConversationEvent, Ended
from charloom.client._options import SamplingOptions
from charloom.client._transcript import OnResult
from charloom.v1 import conversation_pb2

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack


class AsyncConversation:
    """A text that is steered while it is generated.

    An asynchronous iterator of events: `ConversationText`, `Applied` and `Ended`. It ends after `close`, once the
    server has carried out all messages. Each of the other methods sends one message, which takes effect at once, and
    returns its number, from 1; `Applied` reports where it took effect. Any task may call them while one iterates.

    An asynchronous context manager that cancels the call if it is left before the end. A session keeps the text up to
    the last piece that was sent; its `info` may be older, `refresh` fetches it.
    Cancelling a task that waits in here cancels the call.

    Iterating raises the errors of the call, and so do the methods once it is over: see `charloom.client.RequestError`.
    """

    def __init__(
        self,
        duplex: AsyncDuplex[conversation_pb2.ConverseRequest, conversation_pb2.ConverseResponse],
        on_result: OnResult,
    ) -> None:
        self._duplex = duplex
        self._on_result = on_result

    async def inject(self, text: str) -> int:
        """Let the model read a text here, before what it generates next."""
        return await self._duplex.send(_conversation_requests.inject(text))

    async def generate(self, max_tokens: int = 0) -> int:
        """Generate from here on: this many tokens, or with 0 without end, until `pause` or `close`."""
        return await self._duplex.send(_conversation_requests.generate(max_tokens))

    async def set(self, **options: Unpack[SamplingOptions]) -> int:
        """Use these sampling options from here on; options that are left out take their defaults."""
        return await self._duplex.send(_conversation_requests.sampling(options))

    async def pause(self) -> int:
        """Stop generating here; `generate` continues."""
        return await self._duplex.send(_conversation_requests.pause())

    async def close(self) -> None:
        """Send nothing more, which also ends endless generation. The rest can still be read. May be called twice."""
        await self._duplex.close()

    def cancel(self) -> None:
        """End the conversation at once; what has arrived stays. May be called twice."""
        self._duplex.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConversationEvent:
        while (message := await self._duplex.receive()) is not None:
            event = _responses.conversation_event(message)
            if isinstance(event, Ended):
                self._on_result(event.result)
            if event is not None:
                return event
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._duplex.over:
            self.cancel()
