"""Sessions in memory. Not thread-safe: one event loop uses the store, whose methods never wait."""

from __future__ import annotations

import bisect
import heapq
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
from charloom.engine.parts import Parts
from charloom.engine.quotas import Kept, QuotaExceeded, require_kept
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS, Erased, Lease, full
from charloom.engine.shares import Share, current_share

MOST_TOMBSTONES, TOMBSTONE_BYTES = 100_000, 450
"""Most removed sessions that it remembers, and bytes that one tombstone takes, with a long id."""
SPARE = 0.25
"""Extra memory for callers that have less than their part, as a fraction of the memory for sessions."""
FEW = 100
"""Up to this many expired keys are removed from the sorted list one by one; for more, the list is made anew."""

Tombstone = tuple[type[SessionExpired | SessionDeleted], datetime]
"""What became of a session, and when. (Not the exception itself: it would collect a traceback at every raise.)"""


class _Holder(NamedTuple):
    fence: int
    call_id: str


class MemoryStore:
    """A `Store` in this process.

    Args:
        capacity: most sessions, divided between callers as `Parts` says
        now: the clock
        most_memory: most bytes of all sessions after one is added, and a quarter more for callers that have less than
            their part; None: any number
    """

    shared: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    def __init__(self, capacity: int, now: Callable[[], datetime] = utc_now, most_memory: int | None = None) -> None:
        self._capacity = capacity
        self._most_memory = most_memory
        self._bytes = Parts(most_memory or 0, int((most_memory or 0) * (1 + SPARE)))
        self._now = now
        self._sessions: dict[Key, Session] = {}
        self._parts = Parts(capacity)
        self._owners: dict[Key, Share] = {}
        """The caller that made each session."""
        self._due: list[tuple[datetime, Key]] = []
        """A heap: when to check whether a session has expired. It expires then at the earliest, later if renewed."""
        self._overdue: set[Key] = set()
        """Sessions that were in use when they were due; `release` puts them back into the heap."""
        self._keys: list[Key] = []
        """The keys of all sessions, sorted."""
        self._holders: dict[Key, _Holder] = {}
        self._fences = itertools.count(1)
        self._tombstones: OrderedDict[Key, Tombstone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def memory(self) -> int:
        """See `Store`."""
        return self._bytes.total + TOMBSTONE_BYTES * len(self._tombstones)

    @property
    def busy(self) -> int:
        """Number of sessions in use by calls."""
        return len(self._holders)

    async def add(self, sessions: Sequence[Session]) -> None:
        """See `Store`."""
        wanted = set[Key]()
        for session in sessions:
            self._expire(session.key)
            if session.key in self._sessions or session.key in wanted:
                raise SessionExists(session.id)
            wanted.add(session.key)
        share = current_share()
        try:
            self._require_room(share, sessions)
        except (Overloaded, QuotaExceeded):
            await self.sweep()
            self._require_room(share, sessions)
        for session in sessions:
            self._keep(session, share)

    async def get(self, key: Key) -> Session:
        """See `Store`."""
        return self._find(key)

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """See `Store`."""
        now, found = self._now(), list[Session | Unreadable]()
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
        self._put(session)

    async def release(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        self._require(lease)
        del self._holders[session.key]
        self._put(session)
        if session.key in self._overdue:
            self._overdue.remove(session.key)
            heapq.heappush(self._due, (session.expires, session.key))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Store`. Here leases end only with this process, so there is nothing to extend."""
        return [lease for lease in leases if not self._holds(lease)]

    async def delete(self, key: Key) -> Session:
        """See `Store`."""
        session = self._find(key)
        if key in self._holders:
            raise SessionBusy(key.id, session.snapshot.position)
        self._forget(key, SessionDeleted, self._now())
        return session

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """See `Store`."""
        start, now = bisect.bisect_left(self._keys, Key(tenant, "")), self._now()
        keys = list(itertools.takewhile(lambda key: key.tenant == tenant, self._keys[start : start + count]))
        del self._keys[start : start + len(keys)]
        for key in keys:
            self._holders.pop(key, None)
            self._overdue.discard(key)
        return [Erased(key.id, self._take_out(key, SessionDeleted, now).memory) for key in keys]

    async def count(self) -> int:
        """See `Store`."""
        return len(self)

    async def sweep(self) -> int:
        """See `Store`."""
        now, expired = self._now(), list[Session]()
        while self._due and self._due[0][0] <= now:
            _, key = heapq.heappop(self._due)
            session = self._sessions.get(key)
            if session is None:
                continue
            if key in self._holders:
                self._overdue.add(key)
            elif session.expires > now:
                heapq.heappush(self._due, (session.expires, key))
            else:
                expired.append(self._take_out(key, SessionExpired, session.expires))
        if len(expired) > FEW:
            self._keys = [key for key in self._keys if key in self._sessions]
        else:
            for session in expired:
                self._unlist(session.key)
        return len(expired)

    async def kept(self, share: Share) -> Kept:
        """See `Store`."""
        return self._kept(share)

    async def check(self) -> None:
        """See `Store`."""

    async def close(self) -> None:
        """See `Store`."""

    def _require_room(self, share: Share, sessions: Sequence[Session]) -> None:
        more = Kept(len(sessions), sum(session.memory for session in sessions))
        require_kept(share.quota, self._kept(share), more)
        fits = self._parts.fits(share, more.sessions)
        if not fits or (self._most_memory is not None and not self._bytes.fits(share, more.bytes)):
            raise full(len(self._sessions))

    def _keep(self, session: Session, owner: Share) -> None:
        key = session.key
        self._parts.add(owner)
        self._owners[key] = owner
        self._put(session)
        bisect.insort(self._keys, key)
        self._tombstones.pop(key, None)

    def _kept(self, share: Share) -> Kept:
        return Kept(self._parts.of(share), self._bytes.of(share))

    def _put(self, session: Session) -> None:
        before = self._sessions.get(session.key)
        self._sessions[session.key] = session
        self._bytes.add(self._owners[session.key], session.memory - (before.memory if before is not None else 0))
        if before is None or session.expires < before.expires:
            heapq.heappush(self._due, (session.expires, session.key))
            if len(self._due) > 2 * len(self._sessions) + 1024:  # too many stale entries
                self._due = [(one.expires, key) for key, one in self._sessions.items()]
                heapq.heapify(self._due)

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
        self._take_out(key, kind, at)
        self._unlist(key)

    def _take_out(self, key: Key, kind: type[SessionExpired | SessionDeleted], at: datetime) -> Session:
        owner, session = self._owners.pop(key), self._sessions.pop(key)
        self._parts.remove(owner)
        self._bytes.remove(owner, session.memory)
        self._tombstones[key] = (kind, at)
        self._drop_old_tombstones()
        return session

    def _unlist(self, key: Key) -> None:
        del self._keys[bisect.bisect_left(self._keys, key)]

    def _drop_old_tombstones(self) -> None:
        old = self._now() - timedelta(seconds=TOMBSTONE_SECONDS)
        while self._tombstones and (
            len(self._tombstones) > MOST_TOMBSTONES or next(iter(self._tombstones.values()))[1] < old
        ):
            self._tombstones.popitem(last=False)
