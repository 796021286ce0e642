"""The loom: advances all live rows together, some tokens at a time.

Knows: jobs, rows, ticks, one worker thread. Does not know: text, sessions, event loops, gRPC.

A tick is one decoder call. Between two ticks, at one fixed point, rows join and leave: new jobs get a row, cancelled
ones lose theirs. Results go to `deliver`, once per tick, on the worker's thread.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from charloom.engine.arena import Arena
from charloom.engine.decoder import Decoder, Floats, Inputs, Ints, Outputs
from charloom.engine.errors import Draining, Overloaded
from charloom.engine.sampling import Sampling
from charloom.engine.schedule import Work, tick_steps
from charloom.engine.session import Snapshot
from charloom.engine.uniforms import uniforms

log = logging.getLogger(__name__)


class FinishReason(enum.Enum):
    """Why a job left the loom."""

    LENGTH = "length"
    DRAINING = "draining"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """What to feed and to generate, and from where."""

    start: Snapshot
    prompt: Ints
    """[T], may be empty"""
    max_tokens: int
    sampling: Sampling
    snapshots: bool = False
    """Whether each chunk is to carry the state after it."""


@dataclass(frozen=True)
class Finish:
    """How a job ended; times are seconds since it was submitted."""

    reason: FinishReason
    snapshot: Snapshot
    """After the last delivered token; its `tail` is that of the start."""
    generated: int
    fed: int
    queued: float
    first_token: float
    total: float


@dataclass(frozen=True)
class Chunk:
    """What one tick did for one job."""

    tokens: Sequence[int]
    """Generated tokens; empty while a prompt is read, and it may be empty in the last chunk."""
    position: int
    """Absolute position after these tokens."""
    finish: Finish | None = None
    snapshot: Snapshot | None = None
    """After these tokens; None where the job does not ask for it. Its `tail` is that of the start."""


@dataclass(eq=False)
class Strand:
    """A job on the loom. `cancel` and `took` may be called from any thread."""

    job: Job
    receiver: Callable[[Chunk], None]
    """Who wants the chunks; the loom only carries it to `deliver`."""
    loom: Loom
    submitted: float
    cancelled: bool = False
    taken: int = 0
    """Generated tokens that the reader took; only the reader writes it."""
    # From here on, only the loom's worker reads or writes.
    slot: int = -1
    token: int = 0
    fed: int = 0
    generated: int = 0
    begun: float = 0.0
    first: float = 0.0

    @property
    def position(self) -> int:
        return self.job.start.position + self.fed + self.generated

    @property
    def work(self) -> Work:
        return Work(len(self.job.prompt) - self.fed, self.job.max_tokens - self.generated, self.generated > 0)

    @property
    def runnable(self) -> bool:
        return self.generated - self.taken < self.loom.unread_limit

    def cancel(self) -> None:
        """Take the job out of the loom before the next tick; tokens of the present tick are not delivered."""
        self.cancelled = True
        self.loom.wake()

    def took(self, tokens: int) -> None:
        """Say that the reader took this many more tokens: a job whose reader stops is paused."""
        self.taken += tokens
        if self.loom.idle:
            self.loom.wake()


Delivery = tuple[Strand, Chunk]


@dataclass
class _StepCost:
    """Seconds per step by batch size, as a moving average over powers of two."""

    seconds: dict[int, float] = field(default_factory=dict)

    def expected(self, rows: int) -> float:
        bucket = rows.bit_length()
        if bucket in self.seconds:
            return self.seconds[bucket]
        return max(self.seconds.values(), default=0.001)

    def observe(self, rows: int, seconds: float) -> None:
        bucket = rows.bit_length()
        before = self.seconds.get(bucket, seconds)
        self.seconds[bucket] = 0.8 * before + 0.2 * seconds


class Loom:
    """Runs jobs on one decoder.

    Args:
        decoder: who computes
        deliver: called after each tick, on the worker's thread, with everything that the tick brought
        tick_seconds: how long a tick should take when there is work for longer
        max_rows: most rows in one tick; more jobs wait
        max_waiting: most jobs that wait; more are refused
        unread_limit: generated tokens that a reader may leave unread before its job is paused
    """

    def __init__(
        self,
        decoder: Decoder,
        deliver: Callable[[Sequence[Delivery]], None],
        *,
        tick_seconds: float = 0.005,
        max_rows: int = 256,
        max_waiting: int = 1024,
        unread_limit: int = 8192,
    ) -> None:
        self.decoder = decoder
        self.unread_limit = unread_limit
        self._deliver = deliver
        self._tick_seconds = tick_seconds
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._arena = Arena(decoder.shape)
        self._cost = _StepCost()
        self._live: list[Strand] = []
        self.idle = False
        """Whether the worker may be asleep because every reader is behind."""
        self._condition = threading.Condition()
        # Shared with other threads, under the condition's lock.
        self._waiting: deque[Strand] = deque()
        self._woken = False
        self._draining = False
        self._cut = False
        self._worker = threading.Thread(target=self._work, name="charloom-loom", daemon=True)
        self._worker.start()

    # Called from any thread.

    def submit(self, job: Job, receiver: Callable[[Chunk], None]) -> Strand:
        """Put a job on the loom; it joins the next tick that has room.

        Raises:
            Overloaded: too many jobs wait already.
            Draining: the loom takes no more jobs.
        """
        with self._condition:
            if self._draining:
                raise Draining
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} calls are waiting already", retry_after=1.0)
            strand = Strand(job, receiver, self, time.monotonic(), token=job.start.token)
            self._waiting.append(strand)
            self._condition.notify()
        return strand

    def wake(self) -> None:
        """Let the worker look at its rows again."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def drain(self, seconds: float) -> None:
        """Refuse new jobs, wait up to `seconds` for the others, then `cut` them; returns when the worker has ended."""
        with self._condition:
            self._draining = True
            self._condition.notify()
        self._worker.join(seconds)
        self.cut()
        self._worker.join()

    def cut(self) -> None:
        """End all jobs with DRAINING before the next tick, and stop."""
        with self._condition:
            self._draining = self._cut = True
            self._condition.notify()

    @property
    def working(self) -> bool:
        """Whether the worker is there."""
        return self._worker.is_alive()

    @property
    def live(self) -> int:
        """Rows on the loom at this moment."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a row."""
        return len(self._waiting)

    # The worker.

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                deliveries = self._change_rows()
                strands = [strand for strand in self._live if strand.runnable][: self._max_rows]
                if strands:
                    deliveries += self._tick(strands)
                if deliveries:
                    self._deliver(deliveries)
        except BaseException:
            log.exception("the loom broke; it fails its jobs and takes no more")
            with self._condition:
                self._draining = True
                lost = [*self._live, *self._waiting]
                self._waiting.clear()
            self._deliver([self._dismiss(strand, FinishReason.FAILED) for strand in lost])

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; false when the loom is drained and empty."""
        with self._condition:
            while True:
                if self._draining and not self._live and not self._waiting:
                    return False
                # Set before the rows are looked at, so that a reader that takes tokens meanwhile wakes the worker.
                self.idle = True
                runnable = any(strand.runnable for strand in self._live)
                if runnable or self._waiting or self._woken or self._cut:  # a waiting job finds room: none is running
                    self.idle = self._woken = False
                    return True
                self._condition.wait()

    def _change_rows(self) -> list[Delivery]:
        """The one point where rows join and leave."""
        leaving = [strand for strand in self._live if strand.cancelled or self._cut]
        running = sum(strand.runnable for strand in self._live) - sum(strand.runnable for strand in leaving)
        with self._condition:
            leaving_queue = [strand for strand in self._waiting if strand.cancelled or self._cut]
            for strand in leaving_queue:
                self._waiting.remove(strand)
            # A paused row takes no part in ticks, so it does not keep others from joining.
            room = max(0, self._max_rows - running)
            joining = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        deliveries = []
        for strand in leaving + leaving_queue:
            reason = FinishReason.CANCELLED if strand.cancelled else FinishReason.DRAINING
            deliveries.append(self._dismiss(strand, reason))
        for strand in joining:
            strand.slot = self._arena.take(strand.job.start.h, strand.job.start.c)
            strand.begun = time.monotonic()
            self._live.append(strand)
        return deliveries

    def _tick(self, strands: Sequence[Strand]) -> list[Delivery]:
        works = [strand.work for strand in strands]
        count = tick_steps(works, self._cost.expected(len(strands)), self._tick_seconds)
        steps = [min(count, work.to_feed + work.to_generate) for work in works]
        slots = [strand.slot for strand in strands]
        started = time.monotonic()
        try:
            outputs = self.decoder.run(self._inputs(strands, steps, slots, count))
            if outputs.tokens.shape != (count, len(strands)):
                raise ValueError(f"the decoder returned tokens of shape {outputs.tokens.shape}")
        except Exception:
            log.exception("the decoder failed on %d rows x %d steps", len(strands), count)
            if len(strands) == 1:
                return [self._dismiss(strands[0], FinishReason.FAILED)]
            # One row's fault must not end the others: each is tried alone.
            return [delivery for strand in strands for delivery in self._tick([strand])]
        now = time.monotonic()
        self._cost.observe(len(strands), (now - started) / count)
        return self._take_results(strands, works, steps, slots, outputs, now)

    def _inputs(self, strands: Sequence[Strand], steps: list[int], slots: list[int], count: int) -> Inputs:
        forced = np.full((count, len(strands)), -1, np.int64)
        for row, strand in enumerate(strands):
            text = strand.job.prompt[strand.fed : strand.fed + steps[row]]
            forced[: len(text), row] = text
        h, c = self._arena.gather(slots)
        samplings = [strand.job.sampling for strand in strands]
        return Inputs(
            token=np.array([strand.token for strand in strands], np.int64),
            h=h,
            c=c,
            forced=forced,
            steps=np.array(steps, np.int64),
            uniform=uniforms(
                np.array([strand.job.start.seed for strand in strands], np.uint64),
                np.array([strand.position for strand in strands], np.uint64),
                count,
            ),
            temperature=np.array([sampling.temperature for sampling in samplings], np.float32),
            top_k=np.array([sampling.top_k for sampling in samplings], np.int64),
            top_p=np.array([sampling.top_p for sampling in samplings], np.float32),
            min_p=np.array([sampling.min_p for sampling in samplings], np.float32),
            bias=np.zeros((len(strands), self.decoder.shape.vocabulary), np.float32),
        )

    def _take_results(
        self,
        strands: Sequence[Strand],
        works: Sequence[Work],
        steps: Sequence[int],
        slots: Sequence[int],
        outputs: Outputs,
        now: float,
    ) -> list[Delivery]:
        # A strand cancelled during the tick keeps the state before it: that is what its reader was told last.
        kept = [row for row, strand in enumerate(strands) if not strand.cancelled]
        if len(kept) == len(strands):
            self._arena.scatter(slots, outputs.h, outputs.c)
        elif kept:
            self._arena.scatter([slots[row] for row in kept], outputs.h[:, kept], outputs.c[:, kept])
        # The rows of this tick go to the end of the line, for when more than `max_rows` can run.
        ticked = set(strands)
        self._live.sort(key=ticked.__contains__)
        columns = outputs.tokens.T.tolist()
        deliveries: list[Delivery] = []
        for row in kept:
            strand, work, tokens = strands[row], works[row], columns[row][: steps[row]]
            generated = tokens[work.to_feed :]
            strand.token = tokens[-1]
            strand.fed += len(tokens) - len(generated)
            if generated and not strand.generated:
                strand.first = now
            strand.generated += len(generated)
            finish = self._leave(strand, FinishReason.LENGTH) if strand.generated == strand.job.max_tokens else None
            if generated or finish:
                snapshot = finish.snapshot if finish else None
                if snapshot is None and strand.job.snapshots:
                    snapshot = self._snapshot(strand, outputs.h[:, row].copy(), outputs.c[:, row].copy())
                deliveries.append((strand, Chunk(generated, strand.position, finish, snapshot)))
        return deliveries

    @staticmethod
    def _snapshot(strand: Strand, h: Floats, c: Floats) -> Snapshot:
        return replace(strand.job.start, h=h, c=c, token=strand.token, position=strand.position)

    def _dismiss(self, strand: Strand, reason: FinishReason) -> Delivery:
        return strand, Chunk((), strand.position, self._leave(strand, reason))

    def _leave(self, strand: Strand, reason: FinishReason) -> Finish:
        start, now = strand.job.start, time.monotonic()
        if strand.slot >= 0:
            h, c = self._arena.release(strand.slot)
            self._live.remove(strand)
            strand.slot = -1
        else:
            h, c = start.h, start.c
        return Finish(
            reason=reason,
            snapshot=self._snapshot(strand, h, c),
            generated=strand.generated,
            fed=strand.fed,
            queued=(strand.begun or now) - strand.submitted,
            first_token=(strand.first or now) - strand.submitted,
            total=now - strand.submitted,
        )
