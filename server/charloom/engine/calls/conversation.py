"""A text that is steered while it is generated.

Each command stops the running generation at the last text that was handed out, and a new one starts there; text that
had been generated past it is dropped. So the text is what separate calls with these options would have given.

An endless text is one call, made of successive generations of the length that a call may have: after each, its place on
the loom is free for others. Stop strings and penalties apply across all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from charloom.engine.calls.generating import Generating
from charloom.engine.calls.generation import GenerationResult, TextDelta
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import (
    CheckedRequest,
    GenerationRequest,
    Text,
    check,
    check_text,
    refuse_fields,
    within,
)
from charloom.engine.calls.starting import GenerationStart, Starting
from charloom.engine.decoding.decoder import Floats
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import EngineError
from charloom.engine.limits import Limits
from charloom.engine.loom.jobs import Finish, FinishReason
from charloom.engine.sessions.session import Session


class Conversation:
    """A text and its commands. Made by `begin`; must be ended with `end`.

    Args:
        start: where it starts, and the first options
        generating: puts its generations on the loom
        reading: reads the texts that are injected
        limits: what to accept
    """

    def __init__(self, start: GenerationStart, generating: Generating, reading: Reading, limits: Limits) -> None:
        self._generating = generating
        self._reading = reading
        self._limits = limits
        self._model = start.model
        self._request = replace(start.request, prompt="")
        self._writer = start.writer
        self._start = start
        self._present = start.snapshot
        self._segment: _Segment | None = None
        self._left: int | None = 0
        """Tokens still to be generated; None: endless."""
        self._before: Finish | None = None
        """The sum of the earlier generations of the running endless text; None during its first one."""
        self._occurred: Floats | None = None
        """[V], how often each token has occurred in the running endless text; only for penalties."""
        if self._writer is not None:
            self._writer.on_lost(self._fail_segment)

    @classmethod
    async def begin(
        cls, request: GenerationRequest, starting: Starting, generating: Generating, reading: Reading, limits: Limits
    ) -> Conversation:
        """Begin a text, which continues its session if it has one, by reading the prompt.

        Raises:
            as `Generating.generate`.
        """
        refuse_fields(
            request,
            "n",
            "resample",
            "max_tokens",
            "min_tokens",
            "constraint",
            "logprobs",
            "top_logprobs",
            "return_state",
            "state",
        )
        start = await starting.conversation(request)
        conversation = cls(start, generating, reading, limits)
        longest = replace(start, checked=replace(start.checked, max_tokens=limits.max_tokens))
        if start.writer is None:
            generating.hold(longest)
            await conversation.inject(request.prompt)
        else:
            async with start.writer.given_back_on_error():
                generating.hold(longest)
                await conversation.inject(request.prompt)
        return conversation

    @property
    def position(self) -> int:
        """Position after the text that was handed out."""
        return self._present.position

    @property
    def running(self) -> bool:
        """Whether text is being generated."""
        return self._segment is not None

    @property
    def endless(self) -> bool:
        """Whether the running text has no limit of its own."""
        return self._left is None

    async def inject(self, text: Text) -> int:
        """Read a text at this point; returns the position before it.

        Raises:
            InvalidRequest: the text is too long, or the model lacks a character.
            TooMuchMemory, Overloaded, Draining, DecoderFailure: as their names say.
            SessionTakenOver, SessionDeleted: the session has another writer, or was erased; so do all commands that
                begin anything.
        """
        self._require_not_lost()
        tokens = check_text("inject", text, self._request.skip_unknown, self._limits, self._model.vocabulary)
        running, position = self._stop(), self.position
        if len(tokens):
            self._present = await self._reading.read_priced(self._model, tokens, self._present)
            if self._writer is not None:
                self._writer.on_tokens(tokens.tolist(), self._present)
        if running:
            await self._go_on_paced()
        return position

    async def generate(self, max_tokens: int) -> int:
        """Generate up to `max_tokens` from here on (0: endless); returns the position."""
        within("generate.max_tokens", max_tokens, 0, self._limits.max_tokens)
        self._stop()
        self._left = max_tokens or None
        await self._go_on_paced()
        return self.position

    async def set_sampling(self, sampling: Sampling) -> int:
        """Change how tokens are chosen; returns the position from which on this applies."""
        before, self._request = self._request, replace(self._request, sampling=sampling)
        try:
            self._checked()
        except Exception:
            self._request = before
            raise
        if self._stop():
            await self._go_on_paced()
        return self.position

    def pause(self) -> int:
        """Stop generating; returns the position."""
        self._stop()
        self._left = 0
        return self.position

    async def next(self) -> TextDelta | GenerationResult:
        """The next piece of text, or how the text ended; call it only while `running`."""
        while True:
            assert self._segment is not None
            generation = self._segment.generation
            async for delta in generation:
                if generation.result is not None:  # for the last text, `_Segment` has not reported it as sent
                    self.on_sent(generation.result.finish.snapshot)
                return delta
            assert generation.result is not None
            finish = _together(self._before, generation.result.finish)
            self.on_sent(finish.snapshot)
            self._stop()
            if self.endless and finish.reason is FinishReason.LENGTH:
                self._before = finish
                self._go_on()
                continue
            limit = 0 if self.endless else generation.result.max_tokens
            self._left = 0
            return replace(generation.result, finish=finish, max_tokens=limit)

    async def end(self) -> Session | None:
        """Stop, and give the session back in the state after the text that was handed out."""
        self._stop()
        if self._writer is None:
            return None
        return await self._writer.close(None if self._present is self._start.snapshot else self._present)

    def _checked(self) -> CheckedRequest:
        """Check the present options.

        Raises:
            InvalidRequest: one of them cannot be accepted.
        """
        most = self._limits.max_tokens
        length = most if self._left is None else self._left
        request = replace(self._request, max_tokens=max(1, length))
        checked = check(request, self._limits, self._model.vocabulary, self._model.decoder.lacks)
        checked = replace(checked, stops=self._start.checked.stops)  # equal, and their automaton is made already
        if self._left is not None:
            return checked
        # If a generation were shorter than a stop string, all its tokens could be held back for the next one.
        longest = max(map(len, checked.stops.patterns)) if checked.stops else 0
        occurred = None if self._occurred is None else self._occurred.copy()
        return replace(checked, max_tokens=max(most, longest), later=most, occurred=occurred)

    async def _go_on_paced(self) -> None:
        """Continue after a command, once the caller owes no tokens: each new generation may run ahead of the reader."""
        await self._generating.pace()
        self._require_not_lost()
        self._before = None
        penalises = self._left is None and self._request.sampling.penalises
        self._occurred = np.zeros(self._model.vocabulary.size, np.float32) if penalises else None
        self._go_on()

    def _require_not_lost(self) -> None:
        if self._writer is not None:
            self._writer.require_not_lost()

    def _go_on(self) -> None:
        start = replace(self._start, snapshot=self._present, request=self._request, checked=self._checked())
        self._segment = _Segment(self, start, self._generating)

    def _stop(self) -> bool:
        """Stop the running generation at the text that was handed out; returns whether there is more to generate."""
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

    def _fail_segment(self, problem: EngineError) -> None:
        if self._segment is not None:
            self._segment.generation.fail(problem)

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Take tokens of the running generation, and the state after them."""
        if self._occurred is not None:
            np.add.at(self._occurred, np.asarray(tokens, np.int64), 1)
        if self._writer is not None:
            self._writer.on_tokens(tokens, snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        """Take note that text was handed out up to this state."""
        self._present = snapshot
        if self._writer is not None:
            self._writer.on_sent(snapshot)


def _together(first: Finish | None, then: Finish) -> Finish:
    """The finish of a text that consists of two generations."""
    if first is None:
        return then
    return replace(
        then,
        generated=first.generated + then.generated,
        queued=first.queued,
        first_token=first.first_token,
        total=first.total + then.total,
    )


class _Segment:
    """One generation of a conversation, and its `StateSink` until the next command."""

    def __init__(self, conversation: Conversation, start: GenerationStart, generating: Generating) -> None:
        self._conversation = conversation
        self.start = start.snapshot
        self.over = False
        self.generation = generating.run(start, self)

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        if not self.over:
            self._conversation.on_tokens(tokens, snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        if not self.over:
            self._conversation.on_sent(snapshot)

    def on_cancelled(self) -> None:
        """Do nothing: the conversation continues, and keeps its session."""

    async def close(self, snapshot: Snapshot | None) -> Session | None:
        """Do nothing: the conversation keeps its state, and reports the last text as sent in `next`.

        A command that comes before that takes effect before the last text, which is then dropped.
        """
        return None
