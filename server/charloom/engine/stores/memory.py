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

Tombstone = tuple[type[SessionExpired | SessionDeleted], datetime]
"""What became of a session, and when. (Not the exception itself: it would collect a traceback at every raise.)"""


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
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()

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
            if session_id in self._tombstones:
                kind, at = self._tombstones[session_id]
                raise kind(session_id, at) from None
            raise SessionNotFound(session_id) from None

    def page(self, after: str, count: int) -> list[Session]:
        """Up to `count` sessions whose ids come after `after`, in the order of their ids."""
        now, found = self._now(), []
        for at in range(bisect.bisect_right(self._ids, after), len(self._ids)):
            session = self._sessions[self._ids[at]]
            if session.expires > now or session.id in self._busy:
                found.append(session)
            if len(found) == count:
                break
        return found

    def delete(self, session_id: str) -> Session:
        """Forget a session and return what it was.

        Raises:
            SessionNotFound: there is none.
            SessionBusy: a call is using it.
        """
        session = self.get(session_id)
        if session_id in self._busy:
            raise SessionBusy(session_id, session.snapshot.position)
        self._forget(session_id, SessionDeleted, self._now())
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
        expired = [s for s in self._sessions.values() if s.expires <= now and s.id not in self._busy]
        for session in expired:
            self._tombstones[session.id] = (SessionExpired, session.expires)
            del self._sessions[session.id]
        if expired:
            self._ids = [session_id for session_id in self._ids if session_id in self._sessions]
            self._drop_old_tombstones()
        return len(expired)

    def _expire(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session.expires <= self._now() and session_id not in self._busy:
            self._forget(session_id, SessionExpired, session.expires)

    def _forget(self, session_id: str, kind: type[SessionExpired | SessionDeleted], at: datetime) -> None:
        del self._sessions[session_id]
        del self._ids[bisect.bisect_left(self._ids, session_id)]
        self._tombstones[session_id] = (kind, at)
        self._drop_old_tombstones()

    def _drop_old_tombstones(self) -> None:
        while len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.popitem(last=False)
