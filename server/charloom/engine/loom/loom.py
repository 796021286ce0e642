"""The loom, a continuous-batching scheduler: it advances all live rows together, some tokens at a time.

It deals in tokens and states; text, sessions and event loops are its callers'.

A tick is one decoder call. Each worker is one thread that makes tick after tick, with its share of the rows that no
other worker has at that moment; rows belong to no worker. Before a tick, at one fixed point, rows join and leave: new
jobs get a row, cancelled ones lose theirs. One more worker takes only rows that wait for their first token, in short
ticks: so a new job need not wait until a long tick ends. Results go to `deliver`, at most once per tick, on the thread
of the worker.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs
from charloom.engine.decoding.step_cost import StepCost
from charloom.engine.errors import Draining, Overloaded
from charloom.engine.limits import Limits
from charloom.engine.loom.batch import inputs_of, logprobs_of
from charloom.engine.loom.fair_queue import FairQueue, QueueFull, of_most
from charloom.engine.loom.jobs import Chunk, FinishReason, Job
from charloom.engine.loom.row import Delivery, Row
from charloom.engine.loom.schedule import message_pause, tick_steps
from charloom.engine.retry_after import RetryAfter
from charloom.engine.shares import ONLY, Share

log = logging.getLogger(__name__)


class Loom:
    """Runs jobs on one decoder.

    Args:
        decoder: who computes
        deliver: called after each tick, on a worker's thread, with everything that the tick brought
        cost: what a decoder step costs
        workers: how many decoder calls may run at a time, a thread each; and one more for first tokens
        tick_seconds: how long a tick should take when there is work for longer
        max_rows: most rows in one tick; more jobs wait
        max_waiting: most jobs that wait, more are refused; and most jobs that are paused, more are ended
        unread_limit: generated tokens that a reader may leave unread before its job is paused
    """

    def __init__(
        self,
        decoder: Decoder,
        deliver: Callable[[Sequence[Delivery]], None],
        *,
        cost: StepCost,
        workers: int = Limits.workers,
        tick_seconds: float = Limits.tick_seconds,
        max_rows: int = Limits.max_rows,
        max_waiting: int = Limits.max_waiting,
        unread_limit: int = Limits.unread_tokens,
    ) -> None:
        self.decoder = decoder
        self._unread_limit = unread_limit
        self._deliver = deliver
        self._tick_seconds = tick_seconds
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._retry_after = RetryAfter()
        self._cost = cost
        self._share = workers
        """Into how many ticks the rows are split."""
        # All below is written under one lock, and read without it only where an older value does no harm. Two kinds of
        # workers wait for news.
        lock = threading.Lock()
        self._news, self._arrivals = threading.Condition(lock), threading.Condition(lock)
        self._idle = 0
        """How many workers, but for the one for first tokens, look for work or wait for it."""
        self._starter_idle = False
        """Whether that one waits."""
        self._state_pool = decoder.state_pool()
        self._live: list[Row] = []
        self._waiting: FairQueue[Row] = FairQueue(max_waiting)
        self._draining = False
        self._ending: FinishReason | None = None
        """Set when all jobs are to end at once: why."""
        kinds = [*[False] * workers, True]
        self._workers = [
            threading.Thread(target=self._work, args=(starting,), name=f"charloom-loom-{number}", daemon=True)
            for number, starting in enumerate(kinds)
        ]
        for worker in self._workers:
            worker.start()

    # Called from any thread.

    def submit(self, job: Job, receiver: Callable[[Chunk], None], share: Share = ONLY) -> Row:
        """Put a job on the loom; it joins the next tick that has room.

        Args:
            job: what to do
            receiver: who wants its chunks
            share: whose it is

        Raises:
            Overloaded: too many jobs wait already, and no other caller has more of them. Where another has, its newest
                one ends as DISPLACED.
            Draining: the loom takes no more jobs.
        """
        to_host, vocabulary = self._state_pool.to_host, self.decoder.shape.vocabulary
        row = Row(job, receiver, self._wake, self._unread_limit, to_host, vocabulary, share)
        with self._news:
            self.admit(share)
            displaced = self._waiting.put(row)
            lost = None
            if displaced is not None:
                lost = (displaced, displaced.dismiss(FinishReason.DISPLACED, displaced.job.start.state[:, :, None]))
            (self._arrivals if self._starter_idle else self._news).notify()
        if lost is not None:
            self._deliver([lost])
        return row

    def admit(self, share: Share = ONLY) -> None:
        """Raise as `submit` would now; so that a call that will be refused costs no more than that."""
        if self._draining:
            raise Draining
        try:
            self._waiting.check(share)
        except QueueFull:
            raise self.overloaded() from None

    def overloaded(self) -> Overloaded:
        """What to tell a caller whose job does not fit."""
        waiting = len(self._waiting)
        return Overloaded(f"{waiting} calls are waiting already", self._retry_after.refuse(waiting))

    def _wake(self) -> None:
        """Let idle workers look at the rows again; busy ones will before their next tick."""
        if self._idle:
            with self._news:
                self._news.notify_all()

    def drain(self, seconds: float) -> None:
        """Refuse new jobs, wait up to `seconds` for the others, then `end_now`, until the workers have ended."""
        with self._news:
            self._draining = True
            self._notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        self.end_now()
        for worker in self._workers:
            worker.join()

    def end_now(self) -> None:
        """End all jobs with DRAINING before their next tick, and stop."""
        self._end_all(FinishReason.DRAINING)

    def _end_all(self, reason: FinishReason) -> None:
        with self._news:
            self._draining = True
            self._ending = self._ending or reason
            self._notify_all()

    def _notify_all(self) -> None:
        self._news.notify_all()
        self._arrivals.notify_all()

    @property
    def working(self) -> bool:
        """Whether all workers are there."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def live(self) -> int:
        """Rows on the loom at this moment."""
        return len(self._live)

    @property
    def slots(self) -> int:
        """Slots that are taken in the pool of states: one for each live row."""
        return self._state_pool.used

    @property
    def waiting(self) -> int:
        """Jobs that wait for a row."""
        return len(self._waiting)

    # The workers.

    def _work(self, starting: bool) -> None:
        """Make ticks, of rows without their first token if `starting`, until the loom ends."""
        rows: list[Row] = []
        try:
            while True:
                deliveries, rows, more = self._next_tick(starting)
                if rows:
                    deliveries += self._tick(rows)
                if deliveries:
                    self._deliver(deliveries)
                if not more:
                    return
                # Only now may another worker have them: their chunks must be delivered in order.
                self._let_go(rows)
        except Exception:
            log.exception("a worker of the loom broke; the loom fails its jobs and takes no more")
            self._end_all(FinishReason.FAILED)
            self._let_go(rows)
            with self._news:
                lost = self._change_rows()
            self._deliver(lost)

    def _let_go(self, rows: Sequence[Row]) -> None:
        with self._news:
            for row in rows:
                row.ticking = False
            if self._idle:
                self._news.notify_all()
            if self._draining or any(not row.started for row in rows):
                self._arrivals.notify()

    def _next_tick(self, starting: bool) -> tuple[list[Delivery], list[Row], bool]:
        """What changed, the rows of the next tick, and whether to go on; waits while there is nothing of it."""
        with self._news:
            # Counted before the rows are looked at, so that a reader that takes tokens meanwhile wakes a worker.
            self._idle += not starting
            try:
                while True:
                    deliveries = self._change_rows()
                    rows = self._pick_rows(starting)
                    ended = self._draining and not self._live and not self._waiting
                    if rows or deliveries or ended:
                        if self._idle > (not starting) and any(not row.ticking for row in self._live):
                            self._news.notify()
                        return deliveries, rows, not ended
                    if starting:
                        self._starter_idle = True
                        self._arrivals.wait()
                        self._starter_idle = False
                    else:
                        self._news.wait()
            finally:
                self._idle -= not starting

    def _change_rows(self) -> list[Delivery]:
        """The one point where rows join and leave."""
        ending = self._ending
        leaving = [s for s in (*self._live, *self._waiting) if not s.ticking and (ending or s.cancelled)]
        deliveries = [self._dismiss(row, ending or FinishReason.CANCELLED) for row in leaving]
        # A paused row takes no part in ticks, so it does not keep others from joining; but it keeps memory.
        paused = [row for row in self._live if not row.ticking and not row.runnable]
        for row in of_most(paused, len(paused) - self._max_waiting):
            deliveries.append(self._dismiss(row, FinishReason.STALLED))
        places = self._max_rows * self._share
        free = places - (len(self._live) - min(len(paused), self._max_waiting))
        while (joining := self._waiting.take(places, free)) is not None:
            row, free = joining, free - 1
            self._retry_after.served(len(self._waiting))
            row.slot = self._state_pool.take(row.job.start.state)
            row.begun = time.monotonic()
            self._live.append(row)
        return deliveries

    def _pick_rows(self, starting: bool) -> list[Row]:
        """A worker's share of the rows that can run, those first that have waited longest.

        Only rows without their first token if `starting`. There may be more of those than this one worker can take, so
        the others take what they find.
        """
        running = [row for row in self._live if row.runnable and not (starting and row.started)]
        share = min(self._max_rows, math.ceil(len(running) / self._share))
        picked = self._waiting.pick([row for row in running if not row.ticking], share)
        for row in picked:
            row.ticking = True
        return picked

    def _tick(self, rows: Sequence[Row]) -> list[Delivery]:
        works = [row.work for row in rows]
        count = tick_steps(works, self._cost.expected(len(rows)), self._tick_seconds)
        steps = [min(count, work.to_feed + work.to_generate) for work in works]
        slots = [row.slot for row in rows]
        began = time.monotonic()
        try:
            inputs = inputs_of(rows, steps, self._state_pool.gather(slots), self.decoder.shape)
            outputs = self.decoder.run(inputs)
            if outputs.tokens.shape != inputs.forced.shape:
                raise ValueError(f"the decoder returned tokens of shape {outputs.tokens.shape}")
        except Exception:
            log.exception("the decoder failed on %d rows x %d steps", len(rows), count)
            if len(rows) == 1:
                with self._news:
                    return [self._dismiss(rows[0], FinishReason.FAILED)]
            # One row's fault must not end the others: each is tried alone.
            return [delivery for row in rows for delivery in self._tick([row])]
        with self._news:
            self._state_pool.scatter(slots, outputs.state)
            self._waiting.charge(rows, time.monotonic() - began)
            return self._take_results(rows, steps, inputs, outputs)

    def _take_results(
        self, rows: Sequence[Row], steps: Sequence[int], inputs: Inputs, outputs: Outputs
    ) -> list[Delivery]:
        now = time.monotonic()
        # The rows of this tick go to the end of the line, for when there are more than a tick takes.
        ticked = set(rows)
        self._live.sort(key=ticked.__contains__)
        pause = message_pause(len(self._live), self._tick_seconds)
        columns = outputs.tokens.T.tolist()
        deliveries: list[Delivery] = []
        for index, row in enumerate(rows):
            if row.cancelled:
                continue  # nobody wants to know
            tokens, top = columns[index][: steps[index]], row.job.top_logprobs
            logprobs = () if top is None else logprobs_of(outputs, index, steps[index], top)
            chunk = row.advance(tokens, logprobs, index, inputs.state, outputs.state, now, pause)
            if chunk is not None:
                deliveries.append((row, chunk))
                if chunk.finish is not None:
                    self._leave(row)
        return deliveries

    def _dismiss(self, row: Row, reason: FinishReason) -> Delivery:
        present = row.job.start.state[:, :, None] if row.slot < 0 else self._state_pool.gather([row.slot])
        chunk = row.dismiss(reason, present)
        self._leave(row)
        return row, chunk

    def _leave(self, row: Row) -> None:
        if row.slot >= 0:
            self._state_pool.release(row.slot)
            self._live.remove(row)
            self._waiting.leave(row)
            row.slot = -1
        else:
            self._waiting.remove(row)
