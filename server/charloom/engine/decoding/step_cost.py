"""What one decoder step costs with how many rows, measured once.

It is measured before there is any load. A figure taken while serving would contain the time that the worker waits for
the Python lock, and shorter ticks, which cost more of it, would follow from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from charloom.engine.decoding.decoder import Steps
from charloom.engine.decoding.invariance import plain_inputs

MEASURED_ROWS = (1, 4, 16, 64)
MEASURED_STEPS = 8


@dataclass(frozen=True)
class StepCost:
    """Seconds per step at some numbers of rows; in between and beyond, on a straight line."""

    rows: Sequence[int]
    seconds: Sequence[float]

    def expected(self, rows: int) -> float:
        """Seconds of one step with `rows` rows."""
        if rows > self.rows[-1]:
            return self.seconds[-1] * rows / self.rows[-1]
        return float(np.interp(rows, self.rows, self.seconds))

    @classmethod
    def measured(cls, decoder: Steps, clock: Callable[[], float] = time.perf_counter) -> StepCost:
        """Run the decoder at each number of rows, the second time with a look at the clock."""
        seconds = []
        for rows in MEASURED_ROWS:
            inputs = plain_inputs(decoder, rows, MEASURED_STEPS)
            decoder.run(inputs)
            began = clock()
            decoder.run(inputs)
            seconds.append((clock() - began) / MEASURED_STEPS)
        return cls(MEASURED_ROWS, seconds)
