"""A job on the loom: its progress, its reader's progress, and which of its tokens may be delivered."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from charloom.controls import Effect
from charloom.engine.decoding.decoder import Floats, Ints, Outputs, States
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.jobs import Chunk, Finish, FinishReason, Job
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs, logprobs_of
from charloom.engine.loom.schedule import next_message
from charloom.engine.loom.stops import Match, StopMatcher
from charloom.engine.shares import ONLY, Share


class RowState(enum.Enum):
    """The state of a row between `submit` and its last chunk. It changes only with the loom's lock held."""

    WAITING = "waiting"
    """It has no slot."""
    READY = "ready"
    """It can be in the next tick of any worker."""
    TICKING = "ticking"
    """It is in a worker's tick, until the chunks of that tick are delivered, so that no later ones overtake them."""
    PAUSED = "paused"
    """Its reader is too far behind."""
    LEFT = "left"
    """It has ended: its last chunk is made."""

    __hash__ = object.__hash__
    """Faster than that of `Enum`, which is Python code; each row changes twice a tick."""


CHANGES = {
    RowState.WAITING: (RowState.READY, RowState.LEFT),
    RowState.READY: (RowState.TICKING, RowState.LEFT),
    RowState.TICKING: (RowState.READY, RowState.PAUSED, RowState.LEFT),
    RowState.PAUSED: (RowState.READY, RowState.LEFT),
    RowState.LEFT: (),
}
"""The allowed next states. A row leaves when it is cancelled or the loom ends it; from TICKING also when it is done."""


class Kept(NamedTuple):
    """A copy of one row's state, as a snapshot holds it."""

    state: Floats
    """[A, L, H]"""
    learnt: Floats | None
    """[S]"""


class Anchor(NamedTuple):
    """An earlier state, from which the state at the end of the delivered text can be computed again."""

    kept: Kept
    position: int
    tokens: list[int]
    """The next input at `position`, then all tokens since."""


class Bound(NamedTuple):
    """The state of a row under its constraint."""

    over: bool
    """Whether the text has ended, or no further token is allowed."""
    allowed: float
    """As in `Finish`."""


@dataclass(eq=False)
class Row:
    """A job on the loom. `cancel` and `took` may be called from any thread, all else only with the loom's lock held.

    A *watched* row has to see each of its tokens, so it is attended to (`advance`) after every tick. Any other row is
    attended to only when a chunk is due; until then its `done` and `token` lag behind the `RowTable`.
    """

    job: Job
    receiver: Callable[[Chunk], None]
    """Gets the chunks; the loom only passes it on to `deliver`."""
    wake: Callable[[], None]
    """Makes the loom check its rows."""
    unread_limit: int
    """Tokens that the reader may leave unread before the job is paused."""
    to_host: Callable[[Any], Floats]
    """Copies a part of `States.network` into memory of its own."""
    vocabulary: int
    """V"""
    share: Share = ONLY
    """The caller whose job it is."""
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    """Set once, by `cancel`."""
    taken: int = 0
    """Tokens that the reader took; only `took` writes it."""
    slowed: bool = False
    """Whether `took` is delayed by the rate limit of its caller, while a reader is there; written by `Generation`."""
    state: RowState = RowState.WAITING
    slot: int = -1
    """Valid while it is READY, TICKING or PAUSED."""
    done: int = 0
    """Steps that were passed to `count`: tokens fed and generated."""
    due: float = float("inf")
    """When the next chunk is to leave, if it would not be empty."""
    begun: float = 0.0
    """When it got its slot."""
    bound: Bound | None = None
    """As of the last time it was attended to; None without a constraint."""

    def __post_init__(self) -> None:
        job = self.job
        self.alternatives = min(job.top_logprobs or 0, self.vocabulary)
        """Number of alternatives to return for each token."""
        self.forced: Ints = job.forced()
        self.steps = len(self.forced) + job.max_tokens
        """Total number of steps: tokens to feed and to generate."""
        self.token = job.start.pending[0]
        """The next input."""
        self._first_token_at = 0.0
        self._delivered = 0
        self._last_chunk_at = 0.0
        self._unsent: list[int] = []
        self._unsent_logprobs: list[Logprobs] = []
        self._matcher: StopMatcher | None = None
        if job.stops:
            stops = job.stops
            self._matcher = StopMatcher(stops.automaton, include=stops.include, min_tokens=stops.min_tokens)
            self._matcher.push(job.generated_earlier.tolist())
        if job.automaton is not None:
            self.bound = Bound(over=False, allowed=0.0)
        self._anchor: Anchor | None = None
        """At or before the end of the text that may be delivered; only with stop strings."""
        self._asked = [
            (control.name, control.of_row(value, self.vocabulary))
            for control, value in job.sampling.asked
            if control.effect is not Effect.SCALES
        ]
        """The decoder's sampling inputs that are not neutral in this row, with values; those that scale are not here,
        since every row sets them."""
        self._counts: Floats | None = None
        """[V], how often each token has occurred in this call; only for penalties."""
        if job.sampling.penalises:
            # Pending tokens of earlier calls are subtracted here, because feeding them again will count them.
            self._counts = self._occurrences(job.earlier) - self._occurrences(job.start.pending[1:])
            if job.occurred is not None:
                self._counts += job.occurred
        self.watched = bool(job.stops or job.sampling.penalises or job.top_logprobs is not None)

    def change(self, state: RowState) -> None:
        """Change the state, which `CHANGES` must allow."""
        assert state in CHANGES[self.state], f"a row that is {self.state.value} cannot be {state.value} next"
        self.state = state

    @property
    def fed(self) -> int:
        """Number of tokens fed."""
        return min(self.done, len(self.forced))

    @property
    def generated(self) -> int:
        """Number of tokens generated."""
        return self.done - self.fed

    @property
    def position(self) -> int:
        """Absolute position after `done` steps."""
        return self.job.start.position - self.job.start.behind + self.done

    @property
    def started(self) -> bool:
        """Whether its first token is generated."""
        return self.done > len(self.forced)

    @property
    def goal(self) -> int:
        """The next step that the reader waits for: the first generated token, then the end."""
        return self.steps if self.started else min(self.steps, len(self.forced) + 1)

    @property
    def end_step(self) -> int:
        """The last step that it may take before it is attended to: its end, or where the reader's unread limit is."""
        return min(self.steps, max(self.done + 1, len(self.forced) + self.taken + self.unread_limit))

    @property
    def attend_step(self) -> int:
        """The step from which on it is attended to after every tick, whether or not a chunk is due."""
        if self.watched:
            return 0
        return min(self.goal, len(self.forced) + self.taken + self.unread_limit)

    @property
    def runnable(self) -> bool:
        """Whether fewer than `unread_limit` tokens are unread."""
        return self._delivered - self.taken < self.unread_limit

    def cancel(self) -> None:
        """End the job before its next tick; tokens of the present tick are not delivered."""
        self.cancelled = True
        self.wake()

    def took(self, tokens: int) -> None:
        """Report that the reader took this many more tokens; a paused job continues when it took enough."""
        self.taken += tokens
        if self.state is RowState.PAUSED:
            self.wake()

    def ask(self, sampling: dict[str, Any], index: int) -> None:
        """Write this row's sampling options, except those that scale, into the inputs of a tick.

        Args:
            sampling: `Inputs.sampling`
            index: its index in the tick
        """
        for name, value in self._asked:
            sampling[name][index] = value
        if self.job.bias is not None:
            sampling["bias"][index] = self.job.bias
        if self._counts is not None:
            sampling["counts"][index] = self._counts
        if self.alternatives:
            sampling["top"][0] = max(sampling["top"][0], self.alternatives)

    def count(self, tokens: list[int]) -> list[int]:
        """Take over these tokens, fed and generated, in order; returns the generated ones."""
        if not tokens:
            return []
        generated = tokens[max(0, len(self.forced) - self.done) :]
        self.done += len(tokens)
        self.token = tokens[-1]
        self._unsent += generated
        if self._counts is not None:
            self._counts = self._counts + self._occurrences(tokens)
        return generated

    def advance(
        self, tokens: list[int], index: int, before: States, outputs: Outputs, now: float, pause: float
    ) -> Chunk | None:
        """Attend to the row after a tick; returns the chunk to deliver now, if any.

        Args:
            tokens: all tokens since the last `count`, in order; for a watched row those of this tick
            index: its index in the tick
            before: the states before the tick
            outputs: of the tick
            now: the present time
            pause: seconds between two chunks
        """
        came_from, last, started = self.position, self.token, self.started
        generated = self.count(tokens)
        if self.started and not started:
            self._first_token_at = now
        if self.job.top_logprobs is not None:
            logprobs = logprobs_of(outputs, index, len(tokens), self.alternatives)
            if self.job.scored:
                # Not of the tokens that were pending: they only bring the state up to date.
                fed = len(tokens) - len(generated)
                self._unsent_logprobs.append(logprobs[max(0, self.job.start.behind - (self.fed - fed)) : fed])
            else:
                self._unsent_logprobs.append(logprobs[len(tokens) - len(generated) :])
        match = self._matcher.push(generated) if self._matcher else None
        settled = self._settled(match)
        if self._matcher:
            if self._position_of(settled) >= came_from:
                self._anchor = Anchor(self._kept(before, index), came_from, [last, *tokens])
            elif self._anchor:
                self._anchor.tokens.extend(tokens)

        after = outputs.states
        if match:
            return self._tell(settled, after, index, self._finish(FinishReason.STOP, now, match.pattern))
        # Only when all is fed: a resumed call may feed a text that had ended already.
        if self.bound is not None and self.bound.over and self.done >= len(self.forced):
            return self._tell(self.generated, after, index, self._finish(FinishReason.STOP, now))
        if self.done == self.steps:
            told = settled if self.job.later else self.generated
            return self._tell(told, after, index, self._finish(FinishReason.LENGTH, now))
        if settled <= self._delivered:
            return None
        if self._delivered and settled - self.taken < self.unread_limit:
            left = self.steps - self.done
            waited = now - self._last_chunk_at
            self.due = self._last_chunk_at + next_message(settled - self._delivered, left, waited, pause)
            if now < self.due:
                return None
        self.due, self._last_chunk_at = now + next_message(0, self.steps - self.done, 0.0, pause), now
        return self._tell(settled, after, index)

    def dismiss(self, reason: FinishReason, present: States | None = None) -> Chunk:
        """End the row before its next tick; returns its last chunk.

        Args:
            reason: why
            present: its state, as a batch of one row, to deliver its last tokens; None: do not deliver them
        """
        finish = self._finish(reason, time.monotonic())
        if present is not None and self.fed >= self.job.start.behind:
            return self._tell(self._settled(None), present, 0, finish)
        return Chunk((), self.job.start.position + self.prompt_fed + self._delivered, finish)

    @property
    def prompt_fed(self) -> int:
        """Number of prompt tokens fed."""
        return max(0, self.fed - self.job.start.behind)

    def _occurrences(self, tokens: Sequence[int] | Ints) -> Floats:
        return np.bincount(np.asarray(tokens, np.int64), minlength=self.vocabulary).astype(np.float32)

    def _settled(self, match: Match | None) -> int:
        """How many of the generated tokens belong to the text for certain: no stop string can cut them off."""
        if self._matcher is None:
            return self.generated
        if match is None:
            # A stop string that is included stays, but a job that continues the text has to see it as a whole.
            held = self._matcher.open if self.job.later else self._matcher.held
            return max(0, self.generated - held)
        return max(0, (match.end if self._matcher.include else match.start) - self.job.earlier_generated)

    def _position_of(self, settled: int) -> int:
        """Absolute position after the first `settled` generated tokens."""
        return self.position - (self.generated - settled)

    def _tell(self, settled: int, present: States, row: int, finish: Finish | None = None) -> Chunk:
        """Make the chunk with the undelivered tokens among the first `settled` ones."""
        position = self._position_of(settled)
        # First, because it may fail for lack of memory, before anything is marked as delivered.
        snapshot = self._snapshot(position, present, row) if finish or self.job.snapshots else None
        logprobs, count = NONE_TOLD, settled - self._delivered
        if self._unsent_logprobs:
            unsent = Logprobs.joined(self._unsent_logprobs)
            most = len(unsent) if self.job.scored else count
            logprobs, self._unsent_logprobs = unsent[:most].packed(), [unsent[most:]]
        self._delivered = settled
        told, self._unsent = self._unsent[:count], self._unsent[count:]
        if finish and snapshot:
            finish = replace(finish, snapshot=snapshot, generated=settled)
        return Chunk(told, position, finish, snapshot, logprobs)

    def _snapshot(self, position: int, present: States, row: int) -> Snapshot:
        """The state at `position`; where that is in the past, the anchor's state with the tokens up to it pending."""
        if position == self.position:
            kept, pending = self._kept(present, row), [self.token]
        else:
            assert self._anchor is not None
            kept, start, tokens = self._anchor
            pending = tokens[: position - start + 1]
        return replace(self.job.start, state=kept.state, learnt=kept.learnt, pending=(*pending,), position=position)

    def _kept(self, states: States, row: int) -> Kept:
        learnt = None
        if self.job.start.learnt is not None:
            assert states.learnt is not None
            learnt = states.learnt[row].copy()
        return Kept(self.to_host(states.network[:, :, row]), learnt)

    def _finish(self, reason: FinishReason, now: float, stop: int | None = None) -> Finish:
        return Finish(
            reason=reason,
            snapshot=self.job.start,
            generated=self._delivered,
            fed=self.prompt_fed,
            queued=(self.begun or now) - self.submitted,
            first_token=(self._first_token_at or now) - self.submitted,
            total=now - self.submitted,
            stop=stop,
            allowed=None if self.bound is None else self.bound.allowed,
        )


Delivery = tuple[Row, Chunk]
