"""A running generation, seen from an event loop: text out, session committed.

Knows: chunks of tokens, the vocabulary, asyncio. Does not know: who reads the text, how tokens are made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from charloom.bundle import Vocabulary
from charloom.engine.errors import DecoderFailure, ReaderStalled
from charloom.engine.jobs import Chunk, Finish, FinishReason, TokenLogprob
from charloom.engine.sampling import Sampling
from charloom.engine.session import Session, Snapshot
from charloom.engine.strand import Strand

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Some text, and where the session stands after it. It may be empty where there are log-probabilities."""

    text: str
    position: int
    logprobs: Sequence[TokenLogprob] = ()
    """Of the tokens since the last piece, where they were asked for."""


@dataclass(frozen=True)
class GenerationResult:
    """How a generation ended, with the values that were in effect."""

    finish: Finish
    sampling: Sampling
    max_tokens: int
    model: str
    model_digest: str
    session: Session | None
    stop: str | None
    """The stop string that ended it."""


class Generation:
    """Text as it is generated.

    Iterate over it for `Piece`s, or ask for the `whole` text; `result` is there once either has ended, and never after
    `cancel`. A reader that falls behind gets larger pieces, and is paused when it stops reading.

    Its session is committed exactly once: through the last piece that was handed out when it ends or is cancelled,
    and not at all when nothing was handed out. Tokens that were made ahead of the reader are as if never made.

    Args:
        vocabulary: turns tokens into text
        tail: the bytes of an unfinished character that the text goes on from
        commit: called once with the snapshot to keep, or None to leave the session as it was
        describe: makes the result
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tail: bytes,
        commit: Callable[[Snapshot | None], Session | None],
        describe: Callable[[Finish, Session | None], GenerationResult],
    ) -> None:
        self.vocabulary = vocabulary
        self._decoder = vocabulary.decoder(tail)
        self._commit = commit
        self._describe = describe
        self._strand: Strand | None = None
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
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
            self._logprobs += chunk.logprobs
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
            self._failed = self._failed or chunk.finish.reason in (FinishReason.FAILED, FinishReason.STALLED)
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

    async def whole(self) -> Piece:
        """The whole text as one piece. Cancelled before the end, it was not handed out: the session stays as it was.

        Raises:
            asyncio.CancelledError: the generation was cancelled.
        """
        pieces: list[Piece] = []
        while self._finish is None:
            pieces.append(await self._next_piece())
        pieces.append(await self._next_piece())
        if self._abandoned():
            raise asyncio.CancelledError
        self._end()
        logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
        return Piece("".join(piece.text for piece in pieces), self._position, logprobs)

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
            piece = await self._next_piece()
            if self._abandoned():
                break
            if self._finish is not None:
                self._end()
            self._handed_out = self._latest
            if piece.text or piece.logprobs:
                return piece
        raise StopAsyncIteration

    def _abandoned(self) -> bool:
        return self.cancelled and not self._failed

    async def _next_piece(self) -> Piece:
        """All that arrived since the last call, once there is something new."""
        await self._arrived.wait()
        self._arrived.clear()
        piece = Piece("".join(self._text), self._position, self._logprobs)
        unread, self._unread = self._unread, 0
        self._text, self._logprobs = [], []
        if unread and self._strand is not None:
            self._strand.took(unread)
        if self._finish is not None:
            self._arrived.set()  # the end stays the end
        return piece

    def _end(self) -> None:
        assert self._finish is not None
        if self._finish.reason is FinishReason.STALLED:
            raise ReaderStalled
        if self._failed:
            raise DecoderFailure("the decoder failed; the session keeps the state after the text that was sent")
        session = self._settle(replace(self._finish.snapshot, tail=self._decoder.tail))
        self.result = self._describe(self._finish, session)

    def _settle(self, snapshot: Snapshot | None) -> Session | None:
        if self._settled.is_set():
            return None
        self._settled.set()
        return self._commit(snapshot)
