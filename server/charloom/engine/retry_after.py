"""Computes when a refused caller should try again: after the waiting jobs, and the callers refused before it."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORTEST, LONGEST = 1.0, 30.0
"""Range of the seconds to wait. Refusals take time from accepted calls, so no caller is told to come back sooner."""
AVERAGED = 64
"""Number of jobs over which the interval is averaged."""
AT_FIRST = 0.02
"""Seconds between two jobs, before any were measured."""


class RetryAfter:
    """Measures how fast waiting jobs are served, and gives each refused caller a time slot of its own behind them.

    Args:
        clock: a monotonic clock in seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval = AT_FIRST
        self._last: float | None = None
        """When the last job was served; None: no others waited then."""
        self._turn = 0.0
        """When the caller that was last refused should try again."""

    def served(self, waiting: int) -> None:
        """Count that a job was served, while `waiting` others still wait."""
        now = self._clock()
        if self._last is not None:
            self._interval += (now - self._last - self._interval) / AVERAGED
        self._last = now if waiting else None

    def refuse(self, waiting: int) -> float:
        """Count a refusal while `waiting` jobs wait; returns the seconds after which to try again."""
        now = self._clock()
        turn = max(self._turn, now + waiting * self._interval) + self._interval
        self._turn = min(turn, now + LONGEST)
        return round(max(SHORTEST, self._turn - now), 1)
