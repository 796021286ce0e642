"""Durations and times."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from charloom.engine.errors import InvalidRequest


class TimeToLive(Protocol):
    """A request with a time to live."""

    @property
    def time_to_live(self) -> Duration:
        """How long something is to be kept."""

    def HasField(self, name: Any, /) -> bool:
        """Whether it was set."""


def to_time_to_live(request: TimeToLive) -> timedelta | None:
    """The time to live that a request asks for.

    Raises:
        InvalidRequest: the duration is out of protobuf's own range.
    """
    if not request.HasField("time_to_live"):
        return None
    try:
        return request.time_to_live.ToTimedelta()
    except (ValueError, OverflowError) as problem:
        raise InvalidRequest("time_to_live", f"it is not a duration: {problem}") from problem


def from_time(time: datetime) -> Timestamp:
    """The message for a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def from_seconds(seconds: float) -> Duration:
    """The message for a duration."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
