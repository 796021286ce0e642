"""A job on the loom: how far it is, what its reader has, and which of its tokens may be delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from charloom.controls import Effect
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.decoding.uniforms import Uniforms
from charloom.engine.loom.jobs import Chunk, Finish, FinishReason, Job, TokenLogprob
from charloom.engine.loom.schedule import Work
from charloom.engine.loom.stops import Match, StopMatcher
from charloom.engine.shares import ONLY, Share

States = Any
"""[A, L, B, H], of all rows of a tick, on any device."""


class Anchor(NamedTuple):
    """A state that the text may have to go back to, and what came after it."""

    state: Floats
    """[A, L, H]"""
    position: int
    tokens: list[int]
    """The next input, then all tokens since."""


@dataclass(eq=False)
class Row:
    """A job on the loom. `cancel` and `took` may be called from any thread."""

    job: Job
    receiver: Callable[[Chunk], None]
    """Who wants the chunks; the loom only carries it to `deliver`."""
    wake: Callable[[], None]
    """Lets the loom look at its rows again."""
    unread_limit: int
    """Tokens that the reader may leave untaken before the job is paused."""
    to_host: Callable[[Any], Floats]
    """Makes a copy of a part of `States` that can be kept."""
    vocabulary: int
    """V"""
    share: Share = ONLY
    """Whose it is."""
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    taken: int = 0
    """Tokens that the reader took; only the reader writes it."""

    # From here on, only the loom's workers read or write, one at a time.
    ticking: bool = False
    """Whether a worker has it in a tick."""
    slot: int = -1
    fed: int = 0
    generated: int = 0
    begun: float = 0.0

    def __post_init__(self) -> None:
        job = self.job
        self.forced: Ints = job.forced()
        self.token = job.start.pending[0]
        self._replayed = len(job.start.pending) - 1
        self._first = 0.0
        self._delivered = 0
        self._due = 0.0
        """When the next chunk is to leave."""
        self._unsent: list[int] = []
        self._unsent_logprobs: list[TokenLogprob] = []
        self._matcher: StopMatcher | None = None
        if job.stops:
            stops = job.stops
            self._matcher = StopMatcher(stops.patterns, include=stops.include, min_tokens=stops.min_tokens)
            self._matcher.push(job.earlier[len(job.earlier) - job.earlier_generated :].tolist())
        self._anchor: Anchor | None = None
        """At or before the end of what may be told; only for stop strings."""
        self.uniforms = Uniforms(job.start.seed)
        self.asked = [
            (control.name, control.of_row(value, self.vocabulary))
            for control, value in job.sampling.asked
            if control.effect is not Effect.SCALES
        ]
        """Inputs of the decoder that are not neutral in this row, and the values; every row sets those that scale."""
        self.counts: Floats | None = None
        """[V], how often each token has occurred in this call; only for penalties."""
        if job.sampling.penalises:
            # Tokens of earlier calls that are fed once more are counted then too, which brings them to 0.
            self.counts = self._occurrences(job.earlier) - self._occurrences(job.start.pending[1:])

    @property
    def position(self) -> int:
        """Absolute position after the tokens that the network has read or made."""
        return self.job.start.position - self._replayed + self.fed + self.generated

    @property
    def work(self) -> Work:
        return Work(len(self.forced) - self.fed, self.job.max_tokens - self.generated, self.started)

    @property
    def started(self) -> bool:
        return self.generated > 0

    @property
    def runnable(self) -> bool:
        return self._delivered - self.taken < self.unread_limit

    def cancel(self) -> None:
        """Take the job out of the loom before the next tick; tokens of the present tick are not delivered."""
        self.cancelled = True
        self.wake()

    def took(self, tokens: int) -> None:
        """Say that the reader took this many more tokens: a job whose reader stops is paused."""
        paused = not self.runnable
        self.taken += tokens
        if paused:
            self.wake()

    def advance(
        self,
        tokens: list[int],
        logprobs: Sequence[TokenLogprob],
        row: int,
        before: States,
        after: States,
        now: float,
        pause: float,
    ) -> Chunk | None:
        """Take what a tick brought; returns what is to be told now, if anything.

        Args:
            tokens: fed and generated ones, in order, at least one
            logprobs: of each of them, where the job asks for it
            row: its row of the tick
            before: the states before the tick
            after: the states after it
            now: the time
            pause: seconds between two chunks
        """
        fed = min(len(tokens), len(self.forced) - self.fed)
        generated = tokens[fed:]
        came_from, last = self.position, self.token
        self.token = tokens[-1]
        self.fed += fed
        if generated and not self.generated:
            self._first = now
        self.generated += len(generated)
        if self.counts is not None:
            self.counts = self.counts + self._occurrences(tokens)
        self._unsent += generated
        if self.job.scored:
            # Those of tokens that only bring the state up to the present are not asked for.
            self._unsent_logprobs += logprobs[max(0, self._replayed - (self.fed - fed)) : fed]
        else:
            self._unsent_logprobs += logprobs[fed:]
        match = self._matcher.push(generated) if self._matcher else None
        settled = self._settled(match)
        if self._matcher:
            if self._position_of(settled) >= came_from:
                self._anchor = Anchor(self._kept(before, row), came_from, [last, *tokens])
            elif self._anchor:
                self._anchor.tokens.extend(tokens)

        if match:
            return self._tell(settled, after, row, self._finish(FinishReason.STOP, now, match.pattern))
        if self.fed == len(self.forced) and self.generated == self.job.max_tokens:
            return self._tell(self.generated, after, row, self._finish(FinishReason.LENGTH, now))
        due = not self._delivered or now >= self._due or settled - self.taken >= self.unread_limit
        if settled > self._delivered and due:
            self._due = now + pause
            return self._tell(settled, after, row)
        return None

    def dismiss(self, reason: FinishReason, present: States) -> Chunk:
        """End it before its next tick, in its state [A, L, 1, H]. Only a draining job is told its last tokens."""
        finish = self._finish(reason, time.monotonic())
        if reason is FinishReason.DRAINING and self.fed >= self._replayed:
            return self._tell(self._settled(None), present, 0, finish)
        return Chunk((), self.job.start.position + self.prompt_fed + self._delivered, finish)

    @property
    def prompt_fed(self) -> int:
        """Tokens of the prompt that were fed."""
        return max(0, self.fed - self._replayed)

    def _occurrences(self, tokens: Sequence[int] | Ints) -> Floats:
        return np.bincount(np.asarray(tokens, np.int64), minlength=self.vocabulary).astype(np.float32)

    def _settled(self, match: Match | None) -> int:
        """How many of the generated tokens belong to the text for certain."""
        if self._matcher is None:
            return self.generated
        if match is None:
            return max(0, self.generated - self._matcher.held)
        return max(0, (match.end if self._matcher.include else match.start) - self.job.earlier_generated)

    def _position_of(self, settled: int) -> int:
        """Absolute position after the first `settled` generated tokens."""
        return self.position - (self.generated - settled)

    def _tell(self, settled: int, present: States, row: int, finish: Finish | None = None) -> Chunk:
        """Tell the tokens up to the first `settled` ones."""
        count, self._delivered = settled - self._delivered, settled
        told, self._unsent = self._unsent[:count], self._unsent[count:]
        if self.job.scored:
            count = len(self._unsent_logprobs)
        logprobs, self._unsent_logprobs = self._unsent_logprobs[:count], self._unsent_logprobs[count:]
        position = self._position_of(settled)
        snapshot = self._snapshot(position, present, row) if finish or self.job.snapshots else None
        if finish and snapshot:
            finish = replace(finish, snapshot=snapshot, generated=settled)
        return Chunk(told, position, finish, snapshot, logprobs)

    def _snapshot(self, position: int, present: States, row: int) -> Snapshot:
        """The state after the token before `position`; where that is in the past, an older one and what followed."""
        if position == self.position:
            return replace(self.job.start, state=self._kept(present, row), pending=(self.token,), position=position)
        assert self._anchor is not None
        state, start, tokens = self._anchor
        return replace(self.job.start, state=state, pending=tuple(tokens[: position - start + 1]), position=position)

    def _kept(self, states: States, row: int) -> Floats:
        return self.to_host(states[:, :, row])

    def _finish(self, reason: FinishReason, now: float, stop: int | None = None) -> Finish:
        return Finish(
            reason=reason,
            snapshot=self.job.start,
            generated=self._delivered,
            fed=self.prompt_fed,
            queued=(self.begun or now) - self.submitted,
            first_token=(self._first or now) - self.submitted,
            total=now - self.submitted,
            stop=stop,
        )


Delivery = tuple[Row, Chunk]
