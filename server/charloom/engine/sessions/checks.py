"""Checks of request fields about sessions: ids, seeds, positions, times to live."""

from __future__ import annotations

import re
from datetime import timedelta

from charloom.engine.decoding.decoder import Shape
from charloom.engine.errors import InvalidRequest, StalePosition, StoreUnavailable, shown, shown_number
from charloom.engine.limits import Limits
from charloom.engine.sessions.session import Session

SEED_BITS = 64
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def require_id(field: str, value: str) -> None:
    """Check an id from a request.

    Raises:
        InvalidRequest: it is malformed.
    """
    if not _ID.fullmatch(value):
        raise InvalidRequest(field, f"{shown(value)} is not allowed; use up to 64 letters, digits, '.', '_' and '-'")


def require_seed(seed: int | None) -> None:
    """Check a seed from a request; None (the server draws one) is accepted.

    Raises:
        InvalidRequest: it is out of range.
    """
    if seed is not None and not 0 <= seed < 2**SEED_BITS:
        raise InvalidRequest("seed", f"{shown(str(seed))} is not allowed; from 0 to 2^{SEED_BITS} - 1")


def require_position(session: Session, expected: int | None) -> None:
    """Check that a session is at the expected position; None accepts any.

    Raises:
        StalePosition: it is at another one.
    """
    if expected is not None and expected != session.snapshot.position:
        raise StalePosition(session.id, expected, session.snapshot.position)


def require_fits(session: Session, shape: Shape) -> None:
    """Check that the states of a stored session fit a decoder of this shape.

    Raises:
        StoreUnavailable: they do not.
    """
    for snapshot in (session.snapshot, *session.history.checkpoints):
        if problem := snapshot.misfit(shape):
            raise StoreUnavailable(f"the record of session {shown(session.id)} cannot be used: {problem}")


def require_time_to_live(wanted: timedelta | None, limits: Limits) -> timedelta:
    """Check a time to live and return it; None gives the default one.

    Raises:
        InvalidRequest: it is out of range.
    """
    if wanted is None:
        return limits.default_time_to_live
    if not timedelta(0) < wanted <= limits.max_time_to_live:
        longest = limits.max_time_to_live.total_seconds()
        raise InvalidRequest(
            "time_to_live",
            f"{shown_number(wanted.total_seconds())} s is not allowed; above 0 and up to {shown_number(longest)} s",
        )
    return wanted
