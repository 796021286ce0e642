"""The loom, a continuous-batching scheduler: it advances all live rows together, some tokens at a time.

It deals in tokens and states, and knows nothing of text, sessions and event loops.

A tick is one decoder call. Each worker is one thread that makes tick after tick, with its share of the rows that no
other worker has at that moment; rows belong to no worker. Before a tick, at one fixed point, rows join and leave: new
jobs get a row, cancelled ones lose theirs. Ticks are short, so that rows need not wait long for this point. The worker
passes the results of a tick to `deliver`, on its own thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from charloom.engine.decoding.decoder import Decoder, Outputs
from charloom.engine.decoding.step_cost import StepCost, clock_of
from charloom.engine.errors import Draining, Overloaded
from charloom.engine.fair_queue import FairQueue, QueueFull, of_most
from charloom.engine.limits import Limits
from charloom.engine.loom.decoder_calls import DecoderCalls
from charloom.engine.loom.jobs import Chunk, FinishReason, Job
from charloom.engine.loom.live_rows import LiveRows
from charloom.engine.loom.row import Delivery, Row, RowState
from charloom.engine.loom.schedule import CROWD_TICK, LONGEST_TICK, alike, crowd_rows, message_pause, ticks_at_once
from charloom.engine.loom.table import RowTable, Tick
from charloom.engine.loom.totals import LoomTotals
from charloom.engine.retry_after import RetryAfter
from charloom.engine.shares import ONLY, Share

log = logging.getLogger(__name__)

ENDING_SECONDS = 10.0
"""How long `drain` waits for the last calls of the decoder."""


class Loom:
    """Runs jobs on one decoder.

    Args:
        decoder: the decoder to call
        deliver: called after each tick, on a worker's thread, with all chunks of the tick
        cost: the estimate of what a decoder step costs, which each tick updates
        workers: most concurrent decoder calls, each on a thread of its own
        tick_seconds: target duration of a tick
        max_rows: most rows in one tick; more jobs wait
        max_waiting: most waiting jobs, beyond which jobs are refused; and most paused jobs, beyond which some are ended
        unread_limit: generated tokens that a reader may leave unread before its job is paused
        totals: the counters to which ticks and jobs are added

    Raises:
        RuntimeError: a thread could not be started.
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
        totals: LoomTotals | None = None,
    ) -> None:
        self.decoder = decoder
        self._unread_limit = unread_limit
        self._deliver = deliver
        self._tick_seconds = tick_seconds
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._retry_after = RetryAfter()
        self._cost = cost
        self._clock = clock_of(decoder.device)
        # All below is written with the lock held, and read without it only where a stale value does no harm.
        self._news = threading.Condition()
        """The loom's lock; notified when waiting workers have something to do."""
        self._idle = 0
        """Number of workers that look for work or wait for it."""
        self._look = False
        """Whether a row was cancelled, or a paused row was read, since the last check; set without the lock."""
        self._waiting: FairQueue[Row] = FairQueue(max_waiting)
        self._table = RowTable(decoder.shape, decoder.state_pool())
        self._live = LiveRows(max_rows * workers)
        self._calls = DecoderCalls(decoder)
        self._crowds: set[int] = set()
        """The workers that have rows of a crowd (`FairQueue.crowd`)."""
        self._totals = totals or LoomTotals()
        self._draining = False
        self._ending: FinishReason | None = None
        """The reason why all jobs are to end at once; None: they are not."""
        self._workers = [
            threading.Thread(target=self._work, name=f"charloom-loom-{number}", daemon=True)
            for number in range(workers)
        ]
        try:
            for worker in self._workers:
                worker.start()
        except RuntimeError:  # no more threads can be started
            self.end_now()
            raise

    # Called from any thread.

    def submit(self, job: Job, receiver: Callable[[Chunk], None], share: Share = ONLY, ahead: int | None = None) -> Row:
        """Put a job on the loom; it joins the next tick that has room.

        Args:
            job: the job
            receiver: gets its chunks
            share: the caller whose job it is
            ahead: a lower `unread_limit` for this job

        Raises:
            Overloaded: too many jobs wait already, and no other caller has more of them. (If one has, its newest job
                ends as DISPLACED instead.)
            Draining: the loom takes no more jobs.
        """
        return self.submit_together([(job, receiver)], share, ahead)[0]

    def submit_together(
        self, jobs: Sequence[tuple[Job, Callable[[Chunk], None]]], share: Share = ONLY, ahead: int | None = None
    ) -> list[Row]:
        """Put several jobs of one caller on the loom, all or none; they join the same tick if it has room for all.

        Args:
            jobs: jobs with their receivers
            share, ahead: as for `submit`; raises as that
        """
        unread = self._unread_limit if ahead is None else min(ahead, self._unread_limit)
        to_host, vocabulary = self._table.states.to_host, self.decoder.shape.vocabulary
        rows = [Row(job, receiver, self._wake, unread, to_host, vocabulary, share) for job, receiver in jobs]
        with self._news:
            if self._draining:
                raise Draining
            try:
                displaced = self._waiting.put_together(rows, self._live.free)
            except QueueFull:
                raise self.overloaded() from None
            lost = [self._delivery(row, row.dismiss(FinishReason.DISPLACED)) for row in displaced]
            for row in displaced:
                row.change(RowState.LEFT)
            self._news.notify()
        if lost:
            self._deliver(lost)
        return rows

    def admit(self, share: Share = ONLY) -> None:
        """Raise as `submit` would now, so that a refused call costs little. Does nothing if the lock is not free."""
        if self._draining:
            raise Draining
        if not self._news.acquire(blocking=False):
            return  # `submit` checks again; a call waits for the lock only once
        try:
            self._waiting.check(share, self._live.free)
        except QueueFull:
            raise self.overloaded() from None
        finally:
            self._news.release()

    def overloaded(self) -> Overloaded:
        """The error for a caller whose job does not fit; counts a refusal."""
        waiting = len(self._waiting)
        return Overloaded(f"{waiting} calls are waiting already", self._retry_after.refuse(waiting))

    def _wake(self) -> None:
        """Have the rows checked: now by an idle worker, else by the first worker that ends its tick."""
        self._look = True
        if self._idle:
            with self._news:
                self._news.notify_all()

    def drain(self, seconds: float) -> bool:
        """Refuse new jobs, wait up to `seconds` for the present ones, then end the rest as `end_now`, and wait.

        Returns:
            Whether all workers have ended. A worker that is stuck in a decoder call cannot be ended, nor can its jobs.
        """
        with self._news:
            self._draining = True
            self._news.notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        self.end_now()
        end = time.monotonic() + ENDING_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def end_now(self) -> None:
        """End all jobs as DRAINING before their next tick, and stop the workers. Does not wait."""
        self._end_all(FinishReason.DRAINING)

    def _end_all(self, reason: FinishReason) -> None:
        with self._news:
            self._draining = True
            self._ending = self._ending or reason
            self._news.notify_all()

    @property
    def working(self) -> bool:
        """Whether all workers are alive, and none is stuck in a decoder call."""
        return not self._calls.stuck and all(worker.is_alive() for worker in self._workers)

    @property
    def live(self) -> int:
        """Number of rows that have a slot."""
        return len(self._live)

    @property
    def places(self) -> int:
        """Most unpaused rows; further jobs wait."""
        return self._live.places

    @property
    def taken_places(self) -> int:
        """Number of live rows that are not paused."""
        return self._live.unpaused

    @property
    def slots(self) -> int:
        """Number of used slots in the state pool: one for each live row."""
        return self._table.states.used

    @property
    def waiting(self) -> int:
        """Number of waiting jobs."""
        return len(self._waiting)

    # The workers.

    def _work(self) -> None:
        """Make ticks until the loom ends."""
        rows: Sequence[Row] = ()
        more, brought = True, list[Delivery]()  # out here: a worker that breaks still delivers the last chunks in it
        try:
            while more:
                rows, more = self._next_rows(brought)
                self._hand_over(brought)
                if rows:
                    self._tick(rows, brought)
                    self._hand_over(brought)
                # Only now may another worker take these rows: their chunks must be delivered in order.
                self._let_go(rows)
                rows = ()
        except Exception:
            log.exception("a worker of the loom broke; the loom fails its jobs and takes no more")
            self._end_all(FinishReason.FAILED)
            self._let_go(rows)
            with self._news:
                self._change_rows(brought)
            self._hand_over(brought)

    def _hand_over(self, brought: list[Delivery]) -> None:
        if brought:
            self._deliver(tuple(brought))
            brought.clear()

    def _let_go(self, rows: Sequence[Row]) -> None:
        with self._news:
            self._crowds.discard(threading.get_ident())
            if self._live.end_tick(rows):
                self._look = True  # never set to False here: a reader may have set it meanwhile, without the lock
            if self._draining:
                self._news.notify_all()  # these may have been the last rows

    def _next_rows(self, deliveries: list[Delivery]) -> tuple[Sequence[Row], bool]:
        """Wait for work; returns the rows of the next tick, and whether the worker goes on after it."""
        with self._news:
            # Counted before the rows are checked, so that a reader that takes tokens meanwhile wakes a worker.
            self._idle += 1
            try:
                while True:
                    self._change_rows(deliveries)
                    rows = self._pick_rows()
                    ended = self._draining and not self.live and not self._waiting
                    if rows or deliveries or ended:
                        if self._idle > 1 and self._live.ready:
                            self._news.notify()
                        return rows, not ended
                    self._news.wait()
            finally:
                self._idle -= 1

    def _change_rows(self, deliveries: list[Delivery]) -> None:
        """Let rows join and leave; no other code lets rows join."""
        if self._look or self._ending:
            self._look = False
            for row in [*self._waiting, *self._live.ready, *self._live.paused]:
                if reason := FinishReason.CANCELLED if row.cancelled else self._ending:
                    deliveries.append(self._dismiss(row, reason))
                elif row.state is RowState.PAUSED and row.runnable:
                    self._live.resume(row)
        # Paused rows take no place, but memory. Rows that are slowed down by their caller's rate do have a reader.
        paused = self._live.paused
        stalled = [row for row in paused if not row.slowed] if len(paused) > self._max_waiting else []
        for row in of_most(stalled, len(stalled) - self._max_waiting):
            deliveries.append(self._dismiss(row, FinishReason.STALLED))
        free = self._live.free
        while (joining := self._waiting.take(self.places, free)) is not None:
            free -= 1
            self._retry_after.served(len(self._waiting))
            joining.begun = time.monotonic()
            try:
                self._table.join(joining)
            except Exception:  # it is neither waiting nor live now, so it has to be ended here
                joining.change(RowState.LEFT)
                deliveries.append(self._delivery(joining, joining.dismiss(FinishReason.FAILED)))
                raise
            self._live.join(joining)

    def _pick_rows(self) -> Sequence[Row]:
        """The rows of a worker's next tick, longest-waiting first.

        If as many ticks run as the rows are split into, only rows without their first token are picked. A crowd gets
        short ticks, and not all of several workers, so that another caller's row soon finds a free one.
        """
        live = self._live
        if not live.ready:
            return ()
        steps = max(row.steps - row.done for row in live.ready)
        split = ticks_at_once(live.unpaused, len(self._workers), self._max_rows, self._cost.expected, steps)
        ready = [row for row in live.ready if live.ticks < split or not row.started]
        most = min(self._max_rows, math.ceil(live.unpaused / split))
        picked, crowds = self._waiting.pick(ready, most), max(1, len(self._workers) - 1)
        while (crowd := self._waiting.crowd(picked)) is not None and len(self._crowds) >= crowds:
            ready = [row for row in ready if row.share.name != crowd]
            picked = self._waiting.pick(ready, most)
        if crowd is not None:
            crowded = [row for row in picked if row.share.name == crowd]
            picked = [row for row in picked if row.share.name != crowd]
            picked += crowded[: crowd_rows(len(crowded), CROWD_TICK * self._tick_seconds, self._cost.expected)]
            self._crowds.add(threading.get_ident())
        if picked and len(together := alike([row.alternatives for row in picked])) < len(picked):
            picked = [picked[place] for place in together]
        live.begin_tick(picked)
        return picked

    def _tick(self, rows: Sequence[Row], deliveries: list[Delivery]) -> None:
        began = time.monotonic()
        try:
            with self._news:
                crowd = threading.get_ident() in self._crowds
                part, longest = (CROWD_TICK, 1.0) if crowd else (1.0, LONGEST_TICK)
                tick = self._table.tick(rows, self._cost.expected(len(rows)), part * self._tick_seconds, longest)
            computing = self._clock()
            outputs = self._calls.run(tick.inputs)
            computed = self._clock() - computing
        except Exception:
            log.exception("the decoder failed on %d rows", len(rows))
            if len(rows) > 1:
                for row in rows:  # one row's fault must not end the others: retry each alone
                    self._tick([row], deliveries)
                return
            with self._news:
                deliveries.append(self._dismiss(rows[0], FinishReason.FAILED))
            return
        with self._news:
            now = time.monotonic()
            self._cost.learn(len(rows), computed / len(outputs.tokens))
            self._waiting.charge(rows, now - began)
            self._totals.ticked(len(rows), int(outputs.taken.sum()), now - began)
            self._take_results(tick, outputs, now, deliveries)

    def _take_results(self, tick: Tick, outputs: Outputs, now: float, deliveries: list[Delivery]) -> None:
        for index in self._table.take(tick, outputs, now):
            row = tick.rows[index]
            if row.cancelled:
                continue  # its results are not wanted
            pause = message_pause(self._waiting.load(row), self._tick_seconds)
            chunk = self._table.attend(tick, index, outputs, now, pause)
            if chunk is not None:
                deliveries.append(self._delivery(row, chunk))
                if chunk.finish is not None:
                    self._leave(row)

    def _dismiss(self, row: Row, reason: FinishReason) -> Delivery:
        chunk = row.dismiss(reason) if row.state is RowState.WAITING else self._table.dismiss(row, reason)
        self._leave(row)
        return self._delivery(row, chunk)

    def _delivery(self, row: Row, chunk: Chunk) -> Delivery:
        """Count a chunk, and pair it with its row for `deliver`."""
        self._totals.told(chunk, generates=row.job.max_tokens > 0)
        return row, chunk

    def _leave(self, row: Row) -> None:
        if row.state is RowState.WAITING:
            self._waiting.remove(row)
            row.change(RowState.LEFT)
        else:
            self._waiting.leave(row)
            self._table.leave(row)
            self._live.leave(row)
