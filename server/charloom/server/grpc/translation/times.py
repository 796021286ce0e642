"""Durations and times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from charloom.engine.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TimeToLive(Protocol):
    """A request with a time to live."""

    @property
    def time_to_live(self) -> Duration:
        """How long something is to be kept."""

    def HasField(self, name: Any, /) -> bool:
        """Whether the field was set."""


def to_time_to_live(request: TimeToLive) -> timedelta | None:
    """The time to live that a request asks for.

    Raises:
        InvalidRequest: the duration is out of protobuf's own range.
    """
    return to_duration("time_to_live", request.time_to_live) if request.HasField("time_to_live") else None


def to_duration(field: str, duration: Duration) -> timedelta:
    """The duration in this field of a request.

    Raises:
        InvalidRequest: it is out of protobuf's own range.
    """
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError) as problem:
        raise InvalidRequest(field, f"it is not a duration: {problem}") from problem


def from_time(time: datetime) -> Timestamp:
    """The message for a time, which is aware of its zone."""
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def from_seconds(seconds: float) -> Duration:
    """The message for a duration, 0 or more."""
    whole, nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)
