"""A text that is steered while it is generated.

Knows: the state at what was handed out, and what is to come next. Does not know: where the commands come from.

Each command stops the generation that runs, at the last text that was handed out, and a new one starts there: what had
been generated past it is as if never made. So the text is what separate calls with these options would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from charloom.engine.calls.generation import Generation, GenerationResult, TextDelta
from charloom.engine.calls.requests import CheckedRequest, GenerationRequest, check, check_text, within
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import SessionTakenOver
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.loom.models import Model
from charloom.engine.sessions.session import Session
from charloom.engine.sessions.writer import SessionWriter

if TYPE_CHECKING:
    from charloom.engine.engine import Engine


class Conversation:
    """Made by `Engine.converse`, and to be ended.

    Args:
        engine: who generates
        model: with which model
        request: the first options
        start: from where
        writer: of the session, if there is one
    """

    def __init__(
        self, engine: Engine, model: Model, request: GenerationRequest, start: Snapshot, writer: SessionWriter | None
    ) -> None:
        self._engine = engine
        self._model = model
        self._request = replace(request, prompt="")
        self._writer = writer
        self._start = self._present = start
        self._segment: _Segment | None = None
        self._left: int | None = 0
        """Tokens still to be generated; None: without end."""
        if writer is not None:
            writer.lost = self._lose

    @property
    def position(self) -> int:
        """Where the text stands that was handed out."""
        return self._present.position

    @property
    def running(self) -> bool:
        """Whether text is being generated."""
        return self._segment is not None

    @property
    def endless(self) -> bool:
        """Whether it goes on until it is told otherwise."""
        return self._left is None

    def check(self) -> CheckedRequest:
        """The options as they are now.

        Raises:
            InvalidRequest: one of them cannot be accepted.
        """
        most = self._engine.limits.max_tokens
        length = most if self._left is None else self._left
        return check(replace(self._request, max_tokens=max(1, length)), self._engine.limits, self._model.vocabulary)

    async def inject(self, text: str) -> int:
        """Read a text at this point; returns the position before it."""
        tokens = check_text("inject", text, self._request.skip_unknown, self._engine.limits, self._model.vocabulary)
        running, position = self._stop(), self.position
        if len(tokens):
            self._present, _ = await self._engine.reading.read(self._model, tokens, self._present)
            if self._writer is not None:
                self._writer.on_tokens(tokens.tolist(), self._present)
        if running:
            self._go_on()
        return position

    def generate(self, max_tokens: int) -> int:
        """Generate so many tokens from here on, or (0) without end; returns the position."""
        within("generate.max_tokens", max_tokens, 0, self._engine.limits.max_tokens)
        self._stop()
        self._left = max_tokens or None
        self._go_on()
        return self.position

    def set_sampling(self, sampling: Sampling) -> int:
        """Change how tokens are chosen; returns the position from which on."""
        before, self._request = self._request, replace(self._request, sampling=sampling)
        try:
            self.check()
        except Exception:
            self._request = before
            raise
        if self._stop():
            self._go_on()
        return self.position

    def pause(self) -> int:
        """Stop generating; returns the position."""
        self._stop()
        self._left = 0
        return self.position

    async def next(self) -> TextDelta | GenerationResult:
        """What comes next, while it is `running`: some text, or how it ended."""
        while True:
            assert self._segment is not None
            generation = self._segment.generation
            async for delta in generation:
                return delta
            result, endless = generation.result, self.endless
            assert result is not None
            self._stop()
            if endless and result.finish.reason is FinishReason.LENGTH:
                self._go_on()
                continue
            self._left = 0
            return result

    async def end(self) -> Session | None:
        """Stop, and give the session back as after the text that was handed out."""
        self._stop()
        if self._writer is None:
            return None
        return await self._writer.close(None if self._present is self._start else self._present)

    def _go_on(self) -> None:
        segment = _Segment(self, self._present)
        segment.generation = self._engine.start(self._model, self._request, self.check(), self._present, segment)
        self._segment = segment

    def _stop(self) -> bool:
        """Stop what runs, at what was handed out; returns whether anything ran."""
        segment, self._segment = self._segment, None
        if segment is None:
            return False
        segment.over = True
        segment.generation.cancel()
        if self._left is not None:
            self._left -= self.position - segment.start.position
        if self._writer is not None:
            self._writer.truncate(self._present)
        return self._left != 0

    def _lose(self) -> None:
        if self._writer is not None and self._segment is not None:
            self._segment.generation.fail(SessionTakenOver(self._writer.session.id))

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Tokens that the running generation made."""
        if self._writer is not None:
            self._writer.on_tokens(tokens, snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        """What of them was handed out."""
        self._present = snapshot
        if self._writer is not None:
            self._writer.on_sent(snapshot)


class _Segment:
    """The `StateSink` of one generation of a conversation, until that is over."""

    generation: Generation

    def __init__(self, conversation: Conversation, start: Snapshot) -> None:
        self._conversation = conversation
        self.start = start
        self.over = False

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        if not self.over:
            self._conversation.on_tokens(tokens, snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        if not self.over:
            self._conversation.on_sent(snapshot)

    async def close(self, snapshot: Snapshot | None) -> Session | None:
        if not self.over and snapshot is not None:
            self._conversation.on_sent(snapshot)
        return None
