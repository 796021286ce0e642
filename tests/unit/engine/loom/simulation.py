"""The loom in simulated time: its rule for who ticks and for how long, without threads, decoder or clock.

Workers, rows and closed-loop clients are events in a queue, so a run takes milliseconds and always gives the same.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from charloom.engine.limits import Limits
from charloom.engine.loom.schedule import overhead, tick_steps, ticks_at_once

Cost = Callable[[int], float]


def cost_of(microseconds: Mapping[int, float]) -> Cost:
    """Seconds of one step with some rows, on lines between what was measured."""
    rows, seconds = list(microseconds), [1e-6 * cost for cost in microseconds.values()]
    return lambda count: float(np.interp(count, rows, seconds))


def best_split(rows: int, workers: int, cost: Cost) -> float:
    """Row-steps per second of so many rows, split over as many workers as is best, with nothing between two steps."""

    def rate(split: int) -> float:
        sizes = [rows // split + (number < rows % split) for number in range(split)]
        return sum(size / cost(size) for size in sizes)

    return max(rate(split) for split in range(1, min(rows, workers) + 1))


@dataclass(eq=False)
class Call:
    """What a client asks for."""

    to_feed: int
    to_generate: int
    again: bool
    """Whether its client makes another one after it."""
    came: float = 0.0
    taken: int = 0
    """Steps."""

    @property
    def steps(self) -> int:
        return self.to_feed + self.to_generate

    @property
    def started(self) -> bool:
        return self.taken > self.to_feed

    @property
    def goal(self) -> int:
        return self.steps if self.started else self.to_feed + 1


@dataclass
class Simulation:
    """A loom with some clients.

    Args:
        cost: what a step takes
        turnarounds: seconds from the end of a call to the next one of the same client, one after another
        believed: what the loom takes for the cost; `cost` if not given
        workers: how many
        tick_seconds: how long a tick should take
    """

    cost: Cost
    turnarounds: list[float]
    believed: Cost | None = None
    workers: int = 2
    tick_seconds: float = Limits.tick_seconds

    now: float = 0.0
    row_steps: int = 0
    first_tokens: list[float] = field(default_factory=list)
    """Seconds from when a call came."""
    ticks: list[float] = field(default_factory=list)
    """Seconds of each."""

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self._events: list[tuple[float, int, Call | int]] = []
        """A call that comes, or a worker whose tick ends."""
        self._ready: list[Call] = []
        self._in_ticks: dict[int, tuple[list[Call], int]] = {}
        self._turnaround = itertools.cycle(self.turnarounds)

    def call(self, at: float, to_feed: int, to_generate: int, *, again: bool = False) -> None:
        """Let a call come."""
        self._at(at, Call(to_feed, to_generate, again))

    def run(self, seconds: float, warm_up: float) -> float:
        """Simulate so long; returns row-steps per second after the warm-up, of which alone the figures are."""
        warm = False
        while self._events and self._events[0][0] < seconds:
            self.now, _, event = heapq.heappop(self._events)
            if not warm and self.now >= warm_up:
                warm, self.row_steps = True, 0
                self.first_tokens.clear()
                self.ticks.clear()
            if isinstance(event, Call):
                event.came = self.now
                self._ready.append(event)
            else:
                self._end(event)
            for worker in range(self.workers):
                if worker not in self._in_ticks:
                    self._begin(worker)
        return self.row_steps / (seconds - warm_up)

    def _at(self, when: float, event: Call | int) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _begin(self, worker: int) -> None:
        """As `Loom._pick_rows` and `RowTable.tick`."""
        if not self._ready:
            return
        believed = self.believed or self.cost
        rows = len(self._ready) + sum(len(calls) for calls, _ in self._in_ticks.values())
        most = max(call.steps - call.taken for call in self._ready)
        split = ticks_at_once(rows, self.workers, 256, believed, most)
        ready = [call for call in self._ready if len(self._in_ticks) < split or not call.started]
        picked = ready[: math.ceil(rows / split)]
        if not picked:
            return
        self._ready = [call for call in self._ready if call not in picked]
        goals = np.array([call.goal - call.taken for call in picked])
        left = np.array([call.steps - call.taken for call in picked])
        steps = tick_steps(goals, left, goals < left, believed(len(picked)), self.tick_seconds)
        self._in_ticks[worker] = picked, steps
        self.ticks.append(overhead(len(picked)) + steps * self.cost(len(picked)))
        self._at(self.now + self.ticks[-1], worker)

    def _end(self, worker: int) -> None:
        calls, steps = self._in_ticks.pop(worker)
        for call in calls:
            started, taken = call.started, min(steps, call.steps - call.taken)
            call.taken += taken
            self.row_steps += taken
            if call.started and not started:
                self.first_tokens.append(self.now - call.came)
            if call.taken < call.steps:
                self._ready.append(call)
            elif call.again:
                self.call(self.now + next(self._turnaround), call.to_feed, call.to_generate, again=True)
