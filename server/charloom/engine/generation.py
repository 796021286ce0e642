"""A running generation, seen from an event loop: text out, session committed.

Knows: chunks of tokens, the vocabulary, asyncio. Does not know: who reads the text, how tokens are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from charloom.bundle import TextDecoder
from charloom.engine.errors import DecoderFailure
from charloom.engine.loom import Chunk, Finish, FinishReason, Strand
from charloom.engine.sampling import Sampling
from charloom.engine.session import Session, Snapshot


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

    Iterate over it for `Piece`s; `result` is there once the iteration has ended. A reader that falls behind gets
    larger pieces, and is paused when it stops reading.

    Args:
        decoder: turns tokens into text, going on from the session's unfinished character
        commit: called once with the final snapshot; returns the session, if there is one
        describe: makes the result
    """

    def __init__(
        self,
        decoder: TextDecoder,
        commit: Callable[[Snapshot], Session | None],
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
        self._finish: Finish | None = None
        self.cancelled = False
        """Whether it was asked to stop."""
        self.ended = asyncio.Event()
        """Set once its session is committed."""
        self.result: GenerationResult | None = None

    def attach(self, strand: Strand) -> None:
        """Tell it which job it belongs to."""
        self._strand = strand

    def receive(self, chunk: Chunk) -> None:
        """Take a chunk; called on the event loop, in order."""
        self._text.append(self._decoder.feed(chunk.tokens))
        self._unread += len(chunk.tokens)
        self._position = chunk.position
        if chunk.finish is not None:
            self._finish = chunk.finish
            session = self._commit(replace(chunk.finish.snapshot, tail=self._decoder.tail))
            self.result = self._describe(chunk.finish, session)
            self.ended.set()
        self._arrived.set()

    def cancel(self) -> None:
        """Stop generating; the session keeps the state after the last tokens that arrived here."""
        self.cancelled = True
        if self._finish is None and self._strand is not None:
            self._strand.cancel()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Piece:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            text, unread, self._unread = "".join(self._text), self._unread, 0
            self._text.clear()
            if unread and self._strand is not None:
                self._strand.took(unread)
            if self._finish is not None:
                self._arrived.set()  # the end stays the end
            if text:
                return Piece(text, self._position)
            if self._finish is not None:
                if self._finish.reason is FinishReason.FAILED:
                    raise DecoderFailure("the decoder failed; the session keeps the state before the failed tick")
                raise StopAsyncIteration
