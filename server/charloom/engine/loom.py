"""The loom: advances all live rows together, some tokens at a time.

Knows: jobs, rows, ticks, worker threads. Does not know: text, sessions, event loops, gRPC.

A tick is one decoder call. Each worker is one thread that makes tick after tick, with its share of the rows that no
other worker has at that moment; rows belong to no worker. Before a tick, at one fixed point, rows join and leave: new
jobs get a row, cancelled ones lose theirs. Results go to `deliver`, once per tick, on the worker's thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from charloom.engine.arena import Arena
from charloom.engine.decoder import Decoder, Floats, Inputs, Outputs
from charloom.engine.errors import Draining, Overloaded
from charloom.engine.jobs import Chunk, Delivery, Finish, FinishReason, Job, Strand
from charloom.engine.schedule import Work, tick_steps
from charloom.engine.session import Snapshot
from charloom.engine.step_cost import StepCost
from charloom.engine.uniforms import uniforms

log = logging.getLogger(__name__)


class Loom:
    """Runs jobs on one decoder.

    Args:
        decoder: who computes
        deliver: called after each tick, on a worker's thread, with everything that the tick brought
        cost: what a decoder step costs
        workers: how many decoder calls may run at a time, a thread each
        tick_seconds: how long a tick of one row should take when there is work for longer
        max_rows: most rows in one tick; more jobs wait
        max_waiting: most jobs that wait; more are refused
        unread_limit: generated tokens that a reader may leave unread before its job is paused
    """

    def __init__(
        self,
        decoder: Decoder,
        deliver: Callable[[Sequence[Delivery]], None],
        *,
        cost: StepCost,
        workers: int = 1,
        tick_seconds: float = 0.005,
        max_rows: int = 256,
        max_waiting: int = 1024,
        unread_limit: int = 8192,
    ) -> None:
        self.decoder = decoder
        self._unread_limit = unread_limit
        self._deliver = deliver
        self._tick_seconds = tick_seconds
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._cost = cost
        self._idle = 0
        """How many workers look for work or wait for it."""
        # All below is read and written under the condition's lock alone.
        self._condition = threading.Condition()
        self._arena = Arena(decoder.shape)
        self._live: list[Strand] = []
        self._waiting: deque[Strand] = deque()
        self._draining = False
        self._ending: FinishReason | None = None
        """Set when all jobs are to end at once: why."""
        self._workers = [
            threading.Thread(target=self._work, name=f"charloom-loom-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

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
            strand = Strand(job, receiver, self._wake, self._unread_limit, time.monotonic(), token=job.start.token)
            self._waiting.append(strand)
            self._condition.notify()
        return strand

    def _wake(self) -> None:
        """Let idle workers look at the rows again; busy ones will before their next tick."""
        if self._idle:
            with self._condition:
                self._condition.notify_all()

    def drain(self, seconds: float) -> None:
        """Refuse new jobs, wait up to `seconds` for the others, then `cut` them, until the workers have ended."""
        with self._condition:
            self._draining = True
            self._condition.notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        self.cut()
        for worker in self._workers:
            worker.join()

    def cut(self) -> None:
        """End all jobs with DRAINING before their next tick, and stop."""
        self._end_all(FinishReason.DRAINING)

    def _end_all(self, reason: FinishReason) -> None:
        with self._condition:
            self._draining = True
            self._ending = self._ending or reason
            self._condition.notify_all()

    @property
    def working(self) -> bool:
        """Whether all workers are there."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def live(self) -> int:
        """Rows on the loom at this moment."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a row."""
        return len(self._waiting)

    # The workers.

    def _work(self) -> None:
        strands: list[Strand] = []
        try:
            while True:
                deliveries, strands, more = self._next_tick()
                if strands:
                    deliveries += self._tick(strands)
                if deliveries:
                    self._deliver(deliveries)
                if not more:
                    return
                # Only now may another worker have them: their chunks must be delivered in order.
                self._let_go(strands)
        except Exception:
            log.exception("a worker of the loom broke; the loom fails its jobs and takes no more")
            self._end_all(FinishReason.FAILED)
            self._let_go(strands)
            with self._condition:
                lost = self._change_rows()
            self._deliver(lost)

    def _let_go(self, strands: Sequence[Strand]) -> None:
        with self._condition:
            for strand in strands:
                strand.ticking = False
            if self._idle:
                self._condition.notify_all()

    def _next_tick(self) -> tuple[list[Delivery], list[Strand], bool]:
        """What changed, the rows of the next tick, and whether to go on; waits while there is nothing of it."""
        with self._condition:
            # Counted before the rows are looked at, so that a reader that takes tokens meanwhile wakes a worker.
            self._idle += 1
            try:
                while True:
                    deliveries = self._change_rows()
                    strands = self._pick_rows()
                    ended = self._draining and not self._live and not self._waiting
                    if strands or deliveries or ended:
                        return deliveries, strands, not ended
                    self._condition.wait()
            finally:
                self._idle -= 1

    def _change_rows(self) -> list[Delivery]:
        """The one point where rows join and leave."""
        ending = self._ending
        leaving = [s for s in (*self._live, *self._waiting) if not s.ticking and (ending or s.cancelled)]
        deliveries = [self._dismiss(strand, ending or FinishReason.CANCELLED) for strand in leaving]
        # A paused row takes no part in ticks, so it does not keep others from joining.
        running = sum(strand.runnable for strand in self._live)
        room = max(0, self._max_rows * len(self._workers) - running)
        for _ in range(min(room, len(self._waiting))):
            strand = self._waiting.popleft()
            strand.slot = self._arena.take(strand.job.start.h, strand.job.start.c)
            strand.begun = time.monotonic()
            self._live.append(strand)
        return deliveries

    def _pick_rows(self) -> list[Strand]:
        """This worker's share of the rows that can run, those first that have waited longest."""
        running = sum(strand.runnable for strand in self._live)
        share = min(self._max_rows, math.ceil(running / len(self._workers)))
        picked = [strand for strand in self._live if strand.runnable and not strand.ticking][:share]
        for strand in picked:
            strand.ticking = True
        return picked

    def _tick(self, strands: Sequence[Strand]) -> list[Delivery]:
        works = [strand.work for strand in strands]
        count = tick_steps(works, self._cost.expected(len(strands)), self._tick_seconds)
        steps = [min(count, work.to_feed + work.to_generate) for work in works]
        slots = [strand.slot for strand in strands]
        try:
            outputs = self.decoder.run(self._inputs(strands, steps, slots, count))
            if outputs.tokens.shape != (count, len(strands)):
                raise ValueError(f"the decoder returned tokens of shape {outputs.tokens.shape}")
        except Exception:
            log.exception("the decoder failed on %d rows x %d steps", len(strands), count)
            if len(strands) == 1:
                with self._condition:
                    return [self._dismiss(strands[0], FinishReason.FAILED)]
            # One row's fault must not end the others: each is tried alone.
            return [delivery for strand in strands for delivery in self._tick([strand])]
        with self._condition:
            return self._take_results(strands, works, steps, slots, outputs)

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
    ) -> list[Delivery]:
        now = time.monotonic()
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
            self._waiting.remove(strand)
        return Finish(
            reason=reason,
            snapshot=self._snapshot(strand, h, c),
            generated=strand.generated,
            fed=strand.fed,
            queued=(strand.begun or now) - strand.submitted,
            first_token=(strand.first or now) - strand.submitted,
            total=now - strand.submitted,
        )
