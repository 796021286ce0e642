"""What one caller may have of a server, and what it is told when it asks for more.

A transport says it with the caller's share; whatever lets work in asks for it there. Decision 0026 says what is
refused, and what is slowed down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from charloom.engine.errors import EngineError, ErrorKind

LOWEST_RATE, HIGHEST_RATE = 0.001, 1e9
"""Of tokens a second: what is outside could not be counted with."""


@dataclass(frozen=True)
class Quota:
    """The limits of one caller; None: only those of the server."""

    sessions: int | None = None
    """Sessions that are kept."""
    session_bytes: int | None = None
    """Bytes of them, as `Session.memory` counts them, when another one is made."""
    tokens_per_second: float | None = None
    """Tokens read and generated, on average."""
    calls: int | None = None
    """Calls at a time, of each server."""
    prompt_characters: int | None = None
    """Longest text to read at once."""


UNLIMITED = Quota()
KEPT_RETRY_SECONDS = 60.0
"""When to try again to keep a session: some may have expired by then, and who asks sooner makes work for nothing."""


class Kept(NamedTuple):
    """What a store keeps for a caller."""

    sessions: int
    bytes: int
    """Of memory, as `Session.memory` counts them."""


class QuotaExceeded(EngineError):
    """The caller asks for more than it may have, whatever others do.

    Args:
        limit: which one: the name of a field of `Quota`
        most: the limit
        problem: what is beyond it
        advice: what to do
        retry_after: seconds after which there will be room; None where time alone makes none
        numbers: what `problem` says, for programs
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
    """Check that a caller may keep more sessions.

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
