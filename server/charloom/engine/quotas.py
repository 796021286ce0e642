"""What one caller may have of a server, and what it is told when it asks for more.

A transport says it with the caller's share; whatever lets work in asks for it there. Decision 0026 says what is
refused, and what is slowed down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from charloom.engine.errors import EngineError, ErrorKind


@dataclass(frozen=True)
class Quota:
    """The limits of one caller; None: only those of the server."""

    sessions: int | None = None
    """Sessions that are kept."""
    session_bytes: int | None = None
    """Bytes of them, as `Session.memory` counts them, when another one is made."""
    calls: int | None = None
    """Calls at a time, of each server."""
    tokens_per_second: float | None = None
    """Tokens read and generated, on average."""
    prompt_characters: int | None = None
    """Longest text to read at once."""


UNLIMITED = Quota()


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
        used: what the caller has of it
        asked: how much more it asks for
        advice: what to do
        retry_after: seconds after which there will be room; None where time alone makes none
    """

    kind = ErrorKind.EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, limit: str, most: float, used: float, asked: float, advice: str, retry_after: float | None = None
    ) -> None:
        self._numbers = {"most": f"{most:.15g}", "used": f"{used:.15g}", "asked": f"{asked:.15g}"}
        self._limit = limit
        self.retry_after = retry_after
        has = f"you have {self._numbers['used']}, and ask" if used else "you ask"
        wanted = f"{self._numbers['asked']} more" if used else self._numbers["asked"]
        super().__init__(f"your limit of {limit} is {self._numbers['most']}; {has} for {wanted}; {advice}")

    @property
    def facts(self) -> dict[str, str]:
        return {"limit": self._limit, **self._numbers}


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
            raise QuotaExceeded(limit, most, used, asked, "delete sessions, or let them expire sooner")
