"""How long refused callers are asked to wait: so long that few of them try again in any one second."""

from __future__ import annotations

import time
from collections.abc import Callable

WANTED_PER_SECOND = 50.0
"""Refusals cost time that accepted calls would use; so many are cheap."""
SHORTEST, LONGEST = 1.0, 30.0
"""Seconds to wait."""
WINDOW = 1.0


class Backoff:
    """Counts refusals, second by second, and lengthens the wait in proportion when there are more than wanted.

    Args:
        clock: seconds that never go back
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = SHORTEST
        self._began = clock()
        self._count = 0

    def refuse(self) -> float:
        """Count a refusal; returns the seconds after which another try makes sense."""
        now = self._clock()
        if now - self._began >= WINDOW:
            rate = self._count / (now - self._began)
            self._seconds = min(LONGEST, max(SHORTEST, self._seconds * rate / WANTED_PER_SECOND))
            self._began, self._count = now, 0
        self._count += 1
        return round(self._seconds, 1)
