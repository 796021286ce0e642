"""Sessions in Redis, which several servers share.

Each method is one Lua script, which Redis runs as a whole or not at all. Leases and sessions end by the clock of Redis,
so the clocks of the Charloom servers need not agree; a server sends only how much longer a session is to live. All keys
begin with `{charloom}:`, so that a Redis cluster keeps them on one node:

    session:ID  hash: record; holder: the fence of a lease that was not given back; newest: that of the last lease;
                call_id. It expires with the session's time to live, but not before its lease.
    lease:ID    exists while the lease is valid
    mark:ID     hash, the tombstone, which outlives its session by a day: kind (expired or deleted), at, holder
    index       sorted set, the IDs in their order, for pages
    due         sorted set, the IDs by when they expire, for sweeping
    holdings    hash: for each ID in the index, the bytes that it takes and the name of the share that owns it
    owned       hash: for each such share, its number of sessions
    owned-bytes hash: for each such share, the bytes of its sessions
    bucket:NAME hash, for a share with a limit of tokens per second: how many are left (level), and when that was (at)
    fence       the last fence that was given
    erased:TENANT  for a day, the fence of the moment at which all sessions of a tenant were erased

ID is the length of the tenant's name, the name, and the session's id, with colons between. Fences are microseconds of
the clock of Redis, or the last fence plus 1 if that is larger: so they do not repeat even if Redis loses its data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from charloom.engine.clock import from_microseconds, to_microseconds, utc_now
from charloom.engine.errors import (
    EngineError,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    SessionTakenOver,
    StoreFull,
    StoreUnavailable,
)
from charloom.engine.quotas import Kept, require_kept
from charloom.engine.sessions.records import PLAIN, Records, Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores import redis_scripts as lua
from charloom.engine.sessions.stores.redis_connections import Connections, said
from charloom.engine.sessions.stores.store import LEASE_SECONDS, TOMBSTONE_SECONDS, Erased, Lease, full
from charloom.engine.shares import Share, current_share

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

log = logging.getLogger(__name__)

_PREFIX = "{charloom}:"
_PAGE = 50
"""Most sessions in one answer, because Redis serves no other client meanwhile."""
_BATCH = 500
"""Most sessions that one script sweeps, erases or counts."""


class RedisStore:
    """A `Store` in a Redis, and a `Ledger`.

    Args:
        url: as `Connections` takes it
        capacity: most sessions that are kept
        now: the clock of `Session.expires`
        lease_seconds: how long a lease lasts without renewal; the same for all servers
        records: how sessions are written

    Raises:
        ValueError: the URL is malformed, or redis-py is not installed.

    Connects when it is first used. If `acquire` is cancelled, the lease is given back.
    """

    shared: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        capacity: int,
        now: Callable[[], datetime] = utc_now,
        lease_seconds: float = LEASE_SECONDS,
        records: Records = PLAIN,
    ) -> None:
        self._records = records
        self._connections = Connections(url)

        def script(method: str) -> AsyncScript:
            return self._connections.script(lua.script(method))

        self._add, self._get, self._page = script(lua.ADD), script(lua.GET), script(lua.PAGE_OF)
        self._acquire, self._write, self._drop = script(lua.ACQUIRE), script(lua.WRITE), script(lua.DROP)
        self._renew, self._delete, self._sweep = script(lua.RENEW), script(lua.DELETE), script(lua.SWEEP)
        self._check, self._kept, self._recount = script(lua.CHECK), script(lua.KEPT), script(lua.RECOUNT)
        self._erase, self._spend = script(lua.ERASE), script(lua.SPEND)
        self._count = script(lua.COUNT)
        self._capacity = capacity
        self._now = now
        self._times = (round(lease_seconds * 1000), round(TOMBSTONE_SECONDS * 1000))
        self._unwatched: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Check that Redis can be used, as `look`, and count sessions that servers of version 0.1 did not count.

        Raises:
            OSError, ValueError: as `look`.
        """
        await self.look()
        await self._usable(self._count_all())

    async def look(self) -> None:
        """Check that Redis can be used, and warn if it may evict sessions; changes nothing.

        Raises:
            OSError: it does not answer.
            ValueError: it answers with a refusal.
        """
        await self._usable(self.check())
        await self._look_at_eviction()

    @property
    def memory(self) -> int:
        """See `Store`."""
        return 0

    async def add(self, sessions: Sequence[Session]) -> None:
        """See `Store`."""
        share, size = current_share(), sum(one.memory for one in sessions)
        quota = share.quota
        groups = [(_id(one.key), self._records.pack(one), *self._expiry(one), one.memory) for one in sessions]
        what, *rest = await self._run(
            *(
                self._add,
                self._capacity,
                share.name,
                _or_nothing(quota.sessions),
                _or_nothing(quota.session_bytes),
                size,
            ),
            *(field for group in groups for field in group),
        )
        if what == b"exists":
            raise SessionExists(sessions[rest[0]].id)
        if what == b"quota":
            require_kept(quota, Kept(*rest), Kept(len(sessions), size))
        if what != b"done":
            raise full(rest[0])

    async def get(self, key: Key) -> Session:
        """See `Store`."""
        what, *rest = await self._run(self._get, _id(key))
        if what != b"done":
            self._raise_what_became_of(key, what, rest)
        return self._records.unpack(key, rest[0])

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """See `Store`."""
        start, found = _id(Key(tenant, "")), list[Session | Unreadable]()
        while len(found) < count:
            last, *rest = await self._run(self._page, start, after, min(count - len(found), _PAGE))
            pairs = zip(rest[::2], rest[1::2], strict=True)
            found += [self._records.read(Key(tenant, name.decode()[len(start) :]), data) for name, data in pairs]
            if not last:
                break
            after = last.decode()[len(start) :]
        return found

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """See `Store`."""
        taking = asyncio.ensure_future(self._take(key, call_id))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_back)
            raise

    async def write(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._put(lease, session, held=True)

    async def release(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._put(lease, session, held=False)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Store`."""
        pairs = ((_id(lease.session.key), lease.fence) for lease in leases)
        return [leases[number] for number in await self._run(self._renew, *(field for pair in pairs for field in pair))]

    async def delete(self, key: Key) -> Session:
        """See `Store`."""
        await self.get(key)  # a session that cannot be read is not deleted, because it could not be returned
        what, *rest = await self._run(self._delete, _id(key), to_microseconds(self._now()))
        if what != b"done":
            self._raise_what_became_of(key, what, rest)
        return self._records.unpack(key, rest[0])

    async def count(self) -> int:
        """See `Store`."""
        return int(await self._run(self._count))

    async def sweep(self) -> int:
        """See `Store`. Redis expires the sessions by itself; this removes them from the index and the counts."""
        swept = 0
        while True:
            batch, due = await self._run(self._sweep, _BATCH)
            swept += int(batch)
            if due < _BATCH or not batch:  # none swept: all due ones may be in use
                break
        await self._count_all()
        return swept

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """See `Store`."""
        start, erased, more = _id(Key(tenant, "")), list[Erased](), 1
        while more and len(erased) < count:
            at, most = to_microseconds(self._now()), min(count - len(erased), _BATCH)
            more, *rest = await self._run(self._erase, start, at, most)
            pairs = zip(rest[::2], rest[1::2], strict=True)
            erased += [Erased(name.decode()[len(start) :], size) for name, size in pairs]
        return erased

    async def kept(self, share: Share) -> Kept:
        """See `Store`."""
        return Kept(*await self._run(self._kept, share.name))

    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        """See `Ledger`."""
        return float(await self._run(self._spend, name, tokens, rate, burst))

    async def check(self) -> None:
        """See `Store`."""
        await self._run(self._check)

    async def close(self) -> None:
        """See `Store`."""
        await asyncio.gather(*self._unwatched, return_exceptions=True)
        await self._connections.close()

    async def _take(self, key: Key, call_id: str) -> Lease:
        what, *rest = await self._run(self._acquire, _id(key), call_id)
        if what != b"done":
            self._raise_what_became_of(key, what, rest)
        data, fence, same_call = rest
        try:
            return Lease(self._records.unpack(key, data), int(fence), bool(same_call))
        except StoreUnavailable:
            await self._run(self._drop, _id(key), fence)
            raise

    def _give_back(self, taken: asyncio.Future[Lease]) -> None:
        """Give back the lease of a cancelled `acquire`."""
        if taken.cancelled() or taken.exception() is not None:
            return

        async def drop(lease: Lease) -> None:
            with contextlib.suppress(EngineError):
                await self._run(self._drop, _id(lease.session.key), lease.fence)

        task = asyncio.ensure_future(drop(taken.result()))
        self._unwatched.add(task)
        task.add_done_callback(self._unwatched.discard)

    async def _put(self, lease: Lease, session: Session, *, held: bool) -> None:
        # For a session that Redis has lost: the id of the call that acquired it, which only this server knows.
        call_id = "" if session.call is None else session.call.id
        (what,) = await self._run(
            self._write,
            *(_id(session.key), lease.fence, self._records.pack(session), int(held), call_id),
            *(*self._expiry(session), session.memory),
        )
        if what == b"taken":
            raise SessionTakenOver(session.id)

    def _expiry(self, session: Session) -> tuple[int, int]:
        """How many milliseconds a session has left, and the time of expiry for its tombstone, in microseconds."""
        left = (session.expires - self._now()).total_seconds()
        return max(0, math.ceil(left * 1000)), to_microseconds(session.expires)

    async def _usable(self, use: Awaitable[None]) -> None:
        """Await `use`, and convert its errors; raises as `look`."""
        try:
            await use
        except (StoreUnavailable, StoreFull) as problem:
            refused = self._connections.refused(problem)
            message = f"cannot keep sessions in {self._connections.where}: {said(problem.__cause__) or 'no answer'}"
            raise (ValueError if refused else OSError)(message) from problem

    async def _count_all(self) -> None:
        """Count sessions that servers of version 0.1 added without an owner, as those of their tenants."""
        with contextlib.suppress(StoreFull):  # retried at the next sweep
            after = await self._run(self._recount, b"", _BATCH)
            while after:
                after = await self._run(self._recount, after, _BATCH)

    async def _look_at_eviction(self) -> None:
        where = self._connections.where
        try:
            policy = await self._connections.eviction()
        except (StoreUnavailable, StoreFull) as problem:
            log.warning("whether %s evicts sessions is not known: %s", where, problem)
            return
        if policy not in ("", "noeviction"):
            log.warning(
                "%s evicts sessions when its memory is full (maxmemory-policy %s), and they are lost then; "
                "set maxmemory-policy noeviction",
                *(where, policy),
            )

    async def _run(self, script: AsyncScript, *values: Any) -> Any:
        return await self._connections.run(script, [_PREFIX], [*self._times, *values])

    def _raise_what_became_of(self, key: Key, what: bytes, rest: Sequence[bytes]) -> NoReturn:
        if what == b"busy":
            raise SessionBusy(key.id, self._records.unpack(key, rest[0]).snapshot.position)
        if what == b"unknown":
            raise SessionNotFound(key.id)
        at = from_microseconds(int(rest[0]))
        raise (SessionDeleted if what == b"deleted" else SessionExpired)(key.id, at)


def _or_nothing(most: int | None) -> int | str:
    return "" if most is None else most


def _id(key: Key) -> str:
    return f"{len(key.tenant)}:{key.tenant}:{key.id}"
