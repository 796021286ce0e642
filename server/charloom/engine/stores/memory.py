"""Sessions in memory.

Knows: sessions by id, their expiry, who is using them. Does not know: how they change.
Not thread-safe: one event loop uses it.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone

from charloom.engine.errors import (
    Overloaded,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from charloom.engine.session import Session, Snapshot

MOST_TOMBSTONES = 100_000


def utc_now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(timezone.utc)


class MemoryStore:
    """Sessions by id; the ones that were not used for their time to live are forgotten.

    An id that was forgotten leaves a tombstone, so that "expired" can be told from "never existed".

    Args:
        capacity: most sessions that are kept
        now: the clock
    """

    def __init__(self, capacity: int, now: Callable[[], datetime] = utc_now) -> None:
        self._capacity = capacity
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._ids: list[str] = []
        self._busy: set[str] = set()
        self._tombstones: OrderedDict[str, SessionNotFound] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """Sessions that a call is using."""
        return len(self._busy)

    def add(self, session: Session) -> None:
        """Keep a new session.

        Raises:
            SessionExists: its id is in use.
            Overloaded: no more sessions are kept.
        """
        self._expire(session.id)
        if session.id in self._sessions:
            raise SessionExists(session.id)
        if len(self._sessions) >= self._capacity:
            self.sweep()
        if len(self._sessions) >= self._capacity:
            raise Overloaded(f"{self._capacity} sessions are kept already, the most this server keeps", retry_after=60)
        self._sessions[session.id] = session
        bisect.insort(self._ids, session.id)
        self._tombstones.pop(session.id, None)

    def get(self, session_id: str) -> Session:
        """The session of this id.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
        """
        self._expire(session_id)
        try:
            return self._sessions[session_id]
        except KeyError:
            raise self._tombstones.get(session_id) or SessionNotFound(session_id) from None

    def page(self, after: str, count: int) -> list[Session]:
        """Up to `count` sessions whose ids come after `after`, in the order of their ids."""
        self.sweep()
        start = bisect.bisect_right(self._ids, after)
        return [self._sessions[session_id] for session_id in self._ids[start : start + count]]

    def delete(self, session_id: str) -> Session:
        """Forget a session and return what it was.

        Raises:
            SessionNotFound: there is none.
            SessionBusy: a call is using it.
        """
        session = self.get(session_id)
        if session_id in self._busy:
            raise SessionBusy(session_id, session.snapshot.position)
        self._forget(session_id, SessionDeleted(session_id, self._now()))
        return session

    def acquire(self, session_id: str) -> Session:
        """Take a session for one call; it stays and does not expire until `release`.

        Raises:
            SessionNotFound: there is none.
            SessionBusy: a call is using it already.
        """
        session = self.get(session_id)
        if session_id in self._busy:
            raise SessionBusy(session_id, session.snapshot.position)
        self._busy.add(session_id)
        return session

    def release(self, session_id: str, snapshot: Snapshot | None) -> Session:
        """Give a session back, with its new state or (None) as it was; renews its expiry."""
        self._busy.discard(session_id)
        session, now = self._sessions[session_id], self._now()
        session = replace(session, expires=now + session.time_to_live)
        if snapshot is not None:
            session = replace(session, snapshot=snapshot, version=session.version + 1, updated=now)
        self._sessions[session_id] = session
        return session

    def sweep(self) -> int:
        """Forget all sessions whose time is up; returns how many."""
        now = self._now()
        expired = [s.id for s in self._sessions.values() if s.expires <= now and s.id not in self._busy]
        for session_id in expired:
            self._expire(session_id)
        return len(expired)

    def _expire(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session.expires <= self._now() and session_id not in self._busy:
            self._forget(session_id, SessionExpired(session_id, session.expires))

    def _forget(self, session_id: str, tombstone: SessionNotFound) -> None:
        del self._sessions[session_id]
        del self._ids[bisect.bisect_left(self._ids, session_id)]
        self._tombstones[session_id] = tombstone
        if len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.popitem(last=False)
