"""The limits of one caller, and the error when it exceeds them.

A transport sets the quota as part of the caller's share; the code that admits work reads it from there. Decision 0026
says what is refused, and what is slowed down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from charloom.engine.errors import EngineError, ErrorKind

LOWEST_RATE, HIGHEST_RATE = 0.001, 1e9
"""Range of limits in tokens per second; others could not be computed with."""


@dataclass(frozen=True)
class Quota:
    """The limits of one caller; None: only those of the server."""

    sessions: int | None = None
    """Most sessions that are kept."""
    session_bytes: int | None = None
    """Most bytes of these sessions, by `Session.memory`; checked when another one is made."""
    tokens_per_second: float | None = None
    """Tokens read and generated, on average."""
    calls: int | None = None
    """Calls at a time, on each server."""
    prompt_characters: int | None = None
    """Longest text to read at once."""


UNLIMITED = Quota()
KEPT_RETRY_SECONDS = 60.0
"""Seconds after which to try again to make a session: some may have expired by then; earlier tries are useless work."""


class Kept(NamedTuple):
    """The number and size of a caller's sessions in a store."""

    sessions: int
    bytes: int
    """Bytes of memory, by `Session.memory`."""


class QuotaExceeded(EngineError):
    """The caller has reached a limit of its own, whatever others do.

    Args:
        limit: the name of a field of `Quota`
        most: the value of the limit
        problem: for the message: what exceeds it
        advice: for the message: what to do
        retry_after: seconds after which there will be room; None: waiting does not help
        numbers: the numbers in `problem`, for programs
    """

    kind = ErrorKind.EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, limit: str, most: float, problem: str, advice: str, retry_after: float | None = None, **numbers: float
    ) -> None:
        self._facts = {"limit": limit} | {name: f"{value:.15g}" for name, value in {"most": most, **numbers}.items()}
        self.retry_after = retry_after
        super().__init__(f"your limit of {limit} is {most:.15g}, and {problem}; {advice}")

    @property
    def facts(self) -> dict[str, str]:
        return self._facts


def require_kept(quota: Quota, kept: Kept, more: Kept) -> None:
    """Check that a caller that has `kept` may make `more` sessions.

    Raises:
        QuotaExceeded: it may not.
    """
    for limit, most, used, asked in (
        ("sessions", quota.sessions, kept.sessions, more.sessions),
        ("session_bytes", quota.session_bytes, kept.bytes, more.bytes),
    ):
        if most is not None and used + asked > most:
            problem, advice = f"you have {used} and ask for {asked} more", "delete sessions, or let them expire sooner"
            raise QuotaExceeded(limit, most, problem, advice, KEPT_RETRY_SECONDS, used=used, asked=asked)
