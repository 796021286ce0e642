"""When a refused caller should ask again: when those that wait have been served, and those refused before it."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORTEST, LONGEST = 1.0, 30.0
"""Seconds to wait. Refusals cost time that accepted calls would use, so nobody is asked to come back sooner."""
AVERAGED = 64
"""How many jobs the measured speed is the average of."""
AT_FIRST = 0.02
"""Seconds between two jobs before any was measured."""


class RetryAfter:
    """Measures how fast waiting jobs get their turn, and gives each refused caller a turn of its own behind them.

    Args:
        clock: seconds that never go back
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval = AT_FIRST
        self._last: float | None = None
        """When a job was served last while others waited; None: none waited then."""
        self._turn = 0.0
        """When whoever was refused last should ask again."""

    def served(self, waiting: int) -> None:
        """Say that a job got its turn, and how many go on waiting."""
        now = self._clock()
        if self._last is not None:
            self._interval += (now - self._last - self._interval) / AVERAGED
        self._last = now if waiting else None

    def refuse(self, waiting: int) -> float:
        """Count a refusal while so many jobs wait; returns the seconds after which another try makes sense."""
        now = self._clock()
        turn = max(self._turn, now + waiting * self._interval) + self._interval
        self._turn = min(turn, now + LONGEST)
        return round(max(SHORTEST, self._turn - now), 1)
