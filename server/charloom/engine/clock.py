"""The clock, and times as whole numbers."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_WALL, _STEADY = datetime.now(timezone.utc), time.monotonic()


def utc_now() -> datetime:
    """The time, as an aware datetime in UTC.

    The system's clock is read once, when the process starts, and its monotonic clock from then on. So setting the
    system's clock while the server runs does not make sessions expire sooner or later.
    """
    return _WALL + timedelta(seconds=time.monotonic() - _STEADY)


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(microseconds: int) -> datetime:
    """The time from microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)
