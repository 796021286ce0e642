"""What the SDK returns of a server's work: plain frozen values that know neither gRPC nor protobuf.

Counts are those since the server began. Two statuses, one subtracted from the other, tell what it did in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How often a value was in each range."""

    bounds: tuple[float, ...] = ()
    """The highest value of each range, rising; above the last one there is one more range."""

    counts: tuple[int, ...] = (0,)
    """How many values were in each range: one number more than there are bounds."""

    sum: float = 0.0
    """All values together."""

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Of all values; `None` where there were none."""
        return self.sum / self.count if self.count else None

    def since(self, earlier: Histogram) -> Histogram:
        """The values that have come after an earlier histogram of the same server."""
        if earlier.bounds != self.bounds:
            return self
        counts = tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True))
        return Histogram(bounds=self.bounds, counts=counts, sum=self.sum - earlier.sum)

    def quantile(self, part: float) -> float | None:
        """About the value below which a part of all values is, such as 0.99; `None` where there were none.

        Within a range, values are taken to be spread evenly; above the highest bound, that bound stands for all.
        """
        wanted, below = part * self.count, 0
        if not self.count:
            return None
        for index, (bound, count) in enumerate(zip(self.bounds, self.counts, strict=False)):
            if count and below + count >= wanted:
                low = self.bounds[index - 1] if index else 0.0
                return low + (bound - low) * (wanted - below) / count
            below += count
        return self.bounds[-1] if self.bounds else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """What the versions of one model do, and have done. Durations are in seconds."""

    name: str
    """Its name."""

    decoder: str
    """The decoder of the version that serves; empty where none does any more."""

    device: str
    """Where it runs."""

    running: int
    """Streams that have a row."""

    waiting: int
    """Those that wait for one."""

    places: int
    """Rows that can be in decoder calls at a time."""

    generation_tokens: int
    """Tokens that were delivered."""

    prompt_tokens: int
    """Tokens of prompts and texts that were read, of jobs that ended."""

    tick_rows: Histogram
    """Rows of each decoder call."""

    tick_seconds: Histogram
    """Of each decoder call."""

    queue_seconds: Histogram
    """That each job waited for its row."""

    first_token_seconds: Histogram
    """From each submission to its first token."""

    inter_token_seconds: Histogram
    """Of each further token, as the mean of its generation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodStatus:
    """What the calls of one method were."""

    name: str
    """As "service/method", or "METHOD route" over HTTP."""

    running: int
    """Calls that have not ended."""

    ended: int
    """Calls that ended."""

    failed: int
    """Of these, with an error."""

    seconds: Histogram
    """That each took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantStatus:
    """What the calls of one tenant were."""

    name: str
    """Its name; empty for callers who have none."""

    running: int
    """Calls that have not ended."""

    ended: int
    """Calls that ended."""

    failed: int
    """Of these, with an error."""

    prompt_tokens: int
    """Tokens of prompts and texts that were read."""

    generation_tokens: int
    """Tokens that were delivered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """What a server does at a moment, and has done since it began."""

    seconds: float
    """Since it began."""

    usage: float
    """The part of its rows, or of its memory for calls, that is in use: what is more. From 0 to 1."""

    models: tuple[ModelStatus, ...]
    """By name, the default one first."""

    methods: tuple[MethodStatus, ...]
    """Those that were called."""

    tenants: tuple[TenantStatus, ...]
    """Those that called."""

    refusals: Mapping[str, int]
    """Calls that were refused, by the reason of the error."""

    sessions: int | None
    """Sessions that the store keeps, for all servers that share it; `None` where it does not answer."""

    sessions_in_use: int
    """Sessions that calls are using."""

    session_bytes: int
    """Of the server's memory, what sessions take."""

    call_bytes: int
    """What running calls may use."""

    most_bytes: int | None
    """What both may use together; `None` where there is no limit."""
