"""What time it is, and times as whole numbers."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_WALL, _STEADY = datetime.now(timezone.utc), time.monotonic()


def utc_now() -> datetime:
    """The time, in UTC and aware of it.

    The system's clock is read once, when the process starts, and its monotonic clock from then on: when the system's
    clock is set while the server runs, sessions expire no sooner and no later.
    """
    return _WALL + timedelta(seconds=time.monotonic() - _STEADY)


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(microseconds: int) -> datetime:
    """The time that is so many microseconds after the start of 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)
