"""A running generation, seen from an event loop: text out, session committed.

Knows: chunks of tokens, the vocabulary, asyncio. Does not know: who reads the text, how tokens are made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from charloom.bundle import TextDecoder
from charloom.engine.errors import DecoderFailure
from charloom.engine.jobs import Chunk, Finish, FinishReason, Strand
from charloom.engine.sampling import Sampling
from charloom.engine.session import Session, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Some text, and where the session stands after it."""

    text: str
    position: int


@dataclass(frozen=True)
class GenerationResult:
    """How a generation ended, with the values that were in effect."""

    finish: Finish
    sampling: Sampling
    max_tokens: int
    model: str
    model_digest: str
    session: Session | None


class Generation:
    """Text as it is generated.

    Iterate over it for `Piece`s, or ask for the `whole` text; `result` is there once either has ended, and never after
    `cancel`. A reader that falls behind gets larger pieces, and is paused when it stops reading.

    Its session is committed exactly once: through the last piece that was handed out when it ends or is cancelled,
    and not at all when nothing was handed out. Tokens that were made ahead of the reader are as if never made.

    Args:
        decoder: turns tokens into text, going on from the session's unfinished character
        commit: called once with the snapshot to keep, or None to leave the session as it was
        describe: makes the result
    """

    def __init__(
        self,
        decoder: TextDecoder,
        commit: Callable[[Snapshot | None], Session | None],
        describe: Callable[[Finish, Session | None], GenerationResult],
    ) -> None:
        self._decoder = decoder
        self._commit = commit
        self._describe = describe
        self._strand: Strand | None = None
        self._text: list[str] = []
        self._unread = 0
        self._position = 0
        self._arrived = asyncio.Event()
        self._latest: Snapshot | None = None
        self._handed_out: Snapshot | None = None
        self._finish: Finish | None = None
        self._failed = False
        self.cancelled = False
        """Whether it was asked to stop."""
        self._settled = asyncio.Event()
        self.result: GenerationResult | None = None

    def attach(self, strand: Strand) -> None:
        """Tell it which job it belongs to."""
        self._strand = strand

    def receive(self, chunk: Chunk) -> None:
        """Take a chunk; called on the event loop, in order."""
        try:
            self._text.append(self._decoder.feed(chunk.tokens))
            self._unread += len(chunk.tokens)
            self._position = chunk.position
            if chunk.snapshot is not None:
                self._latest = replace(chunk.snapshot, tail=self._decoder.tail)
        except Exception:
            log.exception("a generation could not take its chunk")
            self._failed = True
            self.cancel()
        if chunk.finish is not None:
            self._finish = chunk.finish
            self._failed = self._failed or chunk.finish.reason is FinishReason.FAILED
            if self.cancelled or self._failed:
                self._settle(self._handed_out)
        self._arrived.set()

    def cancel(self) -> None:
        """Stop generating; what was not handed out is dropped. After the end this does nothing."""
        self.cancelled = True
        if self._finish is not None:
            self._settle(self._handed_out)
        elif self._strand is not None:
            self._strand.cancel()

    async def whole(self) -> str:
        """The whole text. Cancelled before the end, it was not handed out: the session stays as it was.

        Raises:
            asyncio.CancelledError: the generation was cancelled.
        """
        parts = []
        while self._finish is None:
            parts.append(await self._next_text())
        parts.append(await self._next_text())
        if self._abandoned():
            raise asyncio.CancelledError
        self._end()
        return "".join(parts)

    async def settles_within(self, seconds: float) -> bool:
        """Whether its session is committed, or will be within this time."""
        try:
            await asyncio.wait_for(self._settled.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Piece:
        while self.result is None and not self._abandoned():
            text = await self._next_text()
            if self._abandoned():
                break
            if self._finish is not None:
                self._end()
            self._handed_out = self._latest
            if text:
                return Piece(text, self._position)
        raise StopAsyncIteration

    def _abandoned(self) -> bool:
        return self.cancelled and not self._failed

    async def _next_text(self) -> str:
        """All text that arrived since the last call, once there is something new."""
        await self._arrived.wait()
        self._arrived.clear()
        text, unread, self._unread = "".join(self._text), self._unread, 0
        self._text.clear()
        if unread and self._strand is not None:
            self._strand.took(unread)
        if self._finish is not None:
            self._arrived.set()  # the end stays the end
        return text

    def _end(self) -> None:
        assert self._finish is not None
        if self._failed:
            raise DecoderFailure("the decoder failed; the session keeps the state after the text that was sent")
        session = self._settle(replace(self._finish.snapshot, tail=self._decoder.tail))
        self.result = self._describe(self._finish, session)

    def _settle(self, snapshot: Snapshot | None) -> Session | None:
        if self._settled.is_set():
            return None
        self._settled.set()
        return self._commit(snapshot)
