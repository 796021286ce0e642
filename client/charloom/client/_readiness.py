"""How long to wait until a server is ready, and the error if it does not become so. Makes no calls."""

from __future__ import annotations

import time

from charloom.client._errors import CharloomError, ConnectionFailed, DeadlineExceeded, Unavailable
from charloom.client._model_types import HealthStatus

POLL = 0.1
"""Seconds between two health checks of a server that answers but does not serve yet."""

NOT_READY = (ConnectionFailed, DeadlineExceeded, Unavailable)
"""Errors of a call to a server that is starting, stopping or absent."""


class Patience:
    """One wait for one server; `seconds` is the limit, `None` for no limit."""

    def __init__(self, target: str, seconds: float | None) -> None:
        self._target = target
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, as the deadline of the next health check."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def is_over(self, answer: HealthStatus | CharloomError) -> bool:
        """Return whether the server is ready.

        Raises:
            ConnectionFailed: it is not, and no time is left for another health check.

        """
        if answer is HealthStatus.SERVING:
            return True
        if self._end is not None and time.monotonic() + POLL > self._end:
            last = f"it says {answer.value}" if isinstance(answer, HealthStatus) else str(answer)
            raise ConnectionFailed(f"the server at {self._target} was not ready within {self._seconds:g} s ({last})")
        return False
