"""A server's work in numbers: plain frozen values that know neither gRPC nor protobuf.

Counts are those since the server started. The difference between two statuses is what it did in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How often a value was in each range."""

    bounds: tuple[float, ...] = ()
    """The highest value of each range, in ascending order; above the last bound there is one more range."""

    counts: tuple[int, ...] = (0,)
    """Number of values in each range; there is one more range than bounds."""

    sum: float = 0.0
    """Sum of all values."""

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Mean of all values; `None` if there were none."""
        return self.sum / self.count if self.count else None

    def since(self, earlier: Histogram) -> Histogram:
        """The values that have come after an earlier histogram of the same server."""
        if earlier.bounds != self.bounds:
            return self
        counts = tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True))
        return Histogram(bounds=self.bounds, counts=counts, sum=self.sum - earlier.sum)

    def quantile(self, part: float) -> float | None:
        """Estimate the quantile at `part`, such as 0.99; `None` if there were no values.

        Values are taken to be spread evenly within a range; above the highest bound, the result is that bound.
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
    """The work of all versions of one model. Durations are in seconds."""

    name: str
    """Its name."""

    decoder: str
    """The decoder of the version that serves; empty if none does any more."""

    device: str
    """Where the decoder runs."""

    running: int
    """Streams that have a row."""

    waiting: int
    """Streams that wait for a row."""

    places: int
    """Rows that decoder calls can hold at a time."""

    generation_tokens: int
    """Tokens that were delivered."""

    prompt_tokens: int
    """Tokens of prompts and texts that were read, counted when their jobs end."""

    tick_rows: Histogram
    """Rows of each decoder call."""

    tick_seconds: Histogram
    """Duration of each decoder call."""

    queue_seconds: Histogram
    """How long each job waited for its row."""

    first_token_seconds: Histogram
    """From the submission of each job to its first token."""

    inter_token_seconds: Histogram
    """Time between tokens after the first; every token counts with the mean of its generation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodStatus:
    """The calls of one method."""

    name: str
    """The method as "service/method", or "METHOD route" over HTTP."""

    running: int
    """Calls that have not ended."""

    ended: int
    """Calls that ended."""

    failed: int
    """Of these, with an error."""

    seconds: Histogram
    """Duration of each call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TenantStatus:
    """The calls of one tenant."""

    name: str
    """Its name; empty for callers without a tenant."""

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
    """What a server is doing at a moment, and has done since it started."""

    seconds: float
    """Seconds since it started."""

    usage: float
    """The share that is in use, from 0 to 1, of its rows or of its memory for calls, whichever is higher."""

    models: tuple[ModelStatus, ...]
    """Models by name, the default one first."""

    methods: tuple[MethodStatus, ...]
    """Methods that were called."""

    tenants: tuple[TenantStatus, ...]
    """Tenants that made calls."""

    refusals: Mapping[str, int]
    """Numbers of refused calls, by the reason of the error."""

    sessions: int | None
    """Sessions in the store, which servers may share; `None` if it does not answer."""

    sessions_in_use: int
    """Sessions that calls are using."""

    session_bytes: int
    """Bytes of the server's memory that sessions take."""

    call_bytes: int
    """Bytes that running calls may use."""

    most_bytes: int | None
    """The most bytes that both may use together; `None` if there is no limit."""
