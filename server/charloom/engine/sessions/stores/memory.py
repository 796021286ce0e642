"""Sessions in memory. Not thread-safe: one event loop uses the store, whose methods never wait."""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from charloom.engine.clock import utc_now
from charloom.engine.errors import (
    Overloaded,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    SessionTakenOver,
)
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS, Lease

MOST_TOMBSTONES = 100_000

Tombstone = tuple[type[SessionExpired | SessionDeleted], datetime]
"""What became of a session, and when. (Not the exception itself: it would collect a traceback at every raise.)"""


class _Holder(NamedTuple):
    fence: int
    call_id: str


class MemoryStore:
    """A `Store` in this process; the sessions that were not used for their time to live are forgotten.

    Args:
        capacity: most sessions that are kept
        now: the clock
    """

    shared: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    def __init__(self, capacity: int, now: Callable[[], datetime] = utc_now) -> None:
        self._capacity = capacity
        self._now = now
        self._sessions: dict[Key, Session] = {}
        self._keys: list[Key] = []
        self._holders: dict[Key, _Holder] = {}
        self._fences = itertools.count(1)
        self._tombstones: OrderedDict[Key, Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """Sessions that a call is using."""
        return len(self._holders)

    async def add(self, sessions: Sequence[Session]) -> None:
        """See `Store`."""
        wanted = set[Key]()
        for session in sessions:
            self._expire(session.key)
            if session.key in self._sessions or session.key in wanted:
                raise SessionExists(session.id)
            wanted.add(session.key)
        if len(self._sessions) + len(sessions) > self._capacity:
            await self.sweep()
        if len(self._sessions) + len(sessions) > self._capacity:
            raise Overloaded(f"{self._capacity} sessions are kept already, the most this server keeps", retry_after=60)
        for session in sessions:
            key = session.key
            self._sessions[key] = session
            bisect.insort(self._keys, key)
            self._tombstones.pop(key, None)

    async def get(self, key: Key) -> Session:
        """See `Store`."""
        return self._find(key)

    async def page(self, tenant: str, after: str, count: int) -> list[Session]:
        """See `Store`."""
        now, found = self._now(), list[Session]()
        for at in range(bisect.bisect_right(self._keys, Key(tenant, after)), len(self._keys)):
            session = self._sessions[self._keys[at]]
            if len(found) == count or session.tenant != tenant:
                break
            if session.expires > now or session.key in self._holders:
                found.append(session)
        return found

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """See `Store`."""
        session, holder = self._find(key), self._holders.get(key)
        same_call = holder is not None and call_id != "" and holder.call_id == call_id
        if holder is not None and not same_call:
            raise SessionBusy(key.id, session.snapshot.position)
        lease = Lease(session, next(self._fences), same_call)
        self._holders[key] = _Holder(lease.fence, call_id)
        return lease

    async def write(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        self._require(lease)
        self._sessions[session.key] = session

    async def release(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        self._require(lease)
        del self._holders[session.key]
        self._sessions[session.key] = session

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Store`. Here they end with this process."""
        return [lease for lease in leases if not self._holds(lease)]

    async def delete(self, key: Key) -> Session:
        """See `Store`."""
        session = self._find(key)
        if key in self._holders:
            raise SessionBusy(key.id, session.snapshot.position)
        self._forget(key, SessionDeleted, self._now())
        return session

    async def sweep(self) -> int:
        """See `Store`."""
        now = self._now()
        expired = [s for s in self._sessions.values() if s.expires <= now and s.key not in self._holders]
        for session in expired:
            self._tombstones[session.key] = (SessionExpired, session.expires)
            del self._sessions[session.key]
        if expired:
            self._keys = [key for key in self._keys if key in self._sessions]
        self._drop_old_tombstones()
        return len(expired)

    async def check(self) -> None:
        """See `Store`."""

    async def close(self) -> None:
        """See `Store`."""

    def _holds(self, lease: Lease) -> bool:
        holder = self._holders.get(lease.session.key)
        return holder is not None and holder.fence == lease.fence

    def _require(self, lease: Lease) -> None:
        if not self._holds(lease):
            raise SessionTakenOver(lease.session.id)

    def _find(self, key: Key) -> Session:
        self._expire(key)
        try:
            return self._sessions[key]
        except KeyError:
            if key in self._tombstones:
                kind, at = self._tombstones[key]
                raise kind(key.id, at) from None
            raise SessionNotFound(key.id) from None

    def _expire(self, key: Key) -> None:
        session = self._sessions.get(key)
        if session is not None and session.expires <= self._now() and key not in self._holders:
            self._forget(key, SessionExpired, session.expires)

    def _forget(self, key: Key, kind: type[SessionExpired | SessionDeleted], at: datetime) -> None:
        del self._sessions[key]
        del self._keys[bisect.bisect_left(self._keys, key)]
        self._tombstones[key] = (kind, at)
        self._drop_old_tombstones()

    def _drop_old_tombstones(self) -> None:
        old = self._now() - timedelta(seconds=TOMBSTONE_SECONDS)
        while self._tombstones and (
            len(self._tombstones) > MOST_TOMBSTONES or next(iter(self._tombstones.values()))[1] < old
        ):
            self._tombstones.popitem(last=False)
