"""What one decoder step costs with how many rows: measured before there is any load, and corrected by the ticks since.

Both times it is the processor time of the thread that computes, where the decoder computes on the CPU. The time on the
clock would contain waits for a core, and for the Python lock: a start on a busy machine would make all later steps look
expensive, and a busy event loop would make them ever more so.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Sequence

from charloom.engine.decoding.decoder import Steps
from charloom.engine.decoding.invariance import plain_inputs

MEASURED_ROWS = (1, 4, 16, 64)
MEASURED_STEPS = 8
ROUNDS = 3
"""How often each is measured, by turns; the least counts, as what disturbs makes it slower and never faster."""
LEAST = 1e-9
"""Seconds; what a clock that did not move stands for."""
NEAR = 1.1
"""A tick that took no more and no less than this many times what was expected changes nothing."""
LEARNED = 0.25
"""What part of the difference a tick corrects, on a scale of ratios."""
FURTHEST = 16.0
"""How many times more or less than at the start a step can come to cost here, whatever the ticks say."""


class StepCost:
    """Seconds per step at some numbers of rows; in between and beyond, on a straight line.

    Args:
        rows: the numbers of rows, ascending
        seconds: what a step costs with each
    """

    def __init__(self, rows: Sequence[int], seconds: Sequence[float]) -> None:
        self.rows, self._seconds = list(rows), [max(LEAST, cost) for cost in seconds]
        self._bounds = [(cost / FURTHEST, cost * FURTHEST) for cost in self._seconds]

    def expected(self, rows: int) -> float:
        """Seconds of one step with `rows` rows."""
        if rows >= self.rows[-1]:
            return self._seconds[-1] * rows / self.rows[-1]
        above, part = self._place(rows)
        return self._seconds[above - 1] * (1 - part) + self._seconds[above] * part

    def learn(self, rows: int, seconds: float) -> None:
        """Say what a step with `rows` rows did cost.

        The figures beside that number follow it by some part of the difference, the nearer one more; and the others as
        far as they must, for a step with more rows takes no less time, and no more for each row.
        """
        ratio = max(LEAST, seconds) / self.expected(rows)
        if 1 / NEAR < ratio < NEAR:
            return
        if rows >= self.rows[-1]:
            weights = {len(self.rows) - 1: 1.0}
        else:
            above, part = self._place(rows)
            weights = {above - 1: 1 - part, above: part}
        for index, weight in weights.items():
            lowest, highest = self._bounds[index]
            self._seconds[index] = min(max(self._seconds[index] * ratio ** (LEARNED * weight), lowest), highest)
        nearest = max(weights, key=lambda index: weights[index])
        for index in [*range(nearest - 1, -1, -1), *range(nearest + 1, len(self.rows))]:
            beside = index + 1 if index < nearest else index - 1
            as_many, as_each = self._seconds[beside], self._seconds[beside] * self.rows[index] / self.rows[beside]
            self._seconds[index] = min(max(self._seconds[index], min(as_many, as_each)), max(as_many, as_each))

    def _place(self, rows: int) -> tuple[int, float]:
        """The first of the figures for more than `rows` rows, and how far from the one before it to that they are."""
        above = max(1, bisect.bisect_right(self.rows, rows))
        first, second = self.rows[above - 1 : above + 1]
        return above, (rows - first) / (second - first)

    @classmethod
    def measured(cls, decoder: Steps, clock: Callable[[], float]) -> StepCost:
        """Run the decoder at each number of rows: once unmeasured, then some times with a look at the clock.

        Args:
            decoder: what takes the steps
            clock: seconds; see `clock_of`
        """
        inputs = [plain_inputs(decoder, rows, MEASURED_STEPS) for rows in MEASURED_ROWS]
        for one in inputs:
            decoder.run(one)
        taken: list[list[float]] = [[] for _ in inputs]
        for _ in range(ROUNDS):
            for seconds, one in zip(taken, inputs, strict=True):
                began = clock()
                decoder.run(one)
                seconds.append((clock() - began) / MEASURED_STEPS)
        return cls(MEASURED_ROWS, [min(seconds) for seconds in taken])


def clock_of(device: str) -> Callable[[], float]:
    """What tells how long a decoder computes: on the CPU the processor time of the calling thread, seconds."""
    return time.thread_time if device == "cpu" else time.perf_counter
