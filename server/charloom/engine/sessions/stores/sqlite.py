"""Sessions in one SQLite file, which outlives the server.

The file is in WAL mode with `synchronous=NORMAL`: if a process is killed at any moment, nothing that was written is
lost; a power cut may lose the last moments before it, and nothing else. Several processes of one machine may share the
file, which has to be on a local disk.

Records have a table of their own, so that acquiring a session does not write its record again. Leases are timed by the
machine's monotonic clock, which all its processes share, and which restarts at boot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from charloom.engine.clock import from_microseconds, to_microseconds, utc_now
from charloom.engine.errors import (
    EngineError,
    SessionBusy,
    SessionExists,
    SessionExpired,
    SessionTakenOver,
    StoreFull,
)
from charloom.engine.quotas import Kept
from charloom.engine.sessions.records import PLAIN, Records, Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores import sqlite_buckets as buckets
from charloom.engine.sessions.stores import sqlite_forgotten as forgotten
from charloom.engine.sessions.stores.sqlite_owners import hold, kept_for, kept_for_all, refusal
from charloom.engine.sessions.stores.sqlite_transactions import READ, WRITE, Transactions
from charloom.engine.sessions.stores.store import LEASE_SECONDS, Erased, Lease
from charloom.engine.shares import Share, current_share

_BATCH = 500
"""Most sessions swept in one transaction, since other work waits for it."""
_LIVE = "held AND lease_until BETWEEN :steady + 1 AND :steady + :lease"
"""The condition that a session's lease is valid. A lease that ends too late was given before the machine booted."""


class _Row(NamedTuple):
    number: int
    expires: int
    fence: int
    held: int
    call_id: str
    live: int


class SqliteStore:
    """A `Store` in a file.

    Args:
        path: of the file; a missing file is made, a missing folder is not
        capacity: most sessions that are kept
        now: the clock of expiry
        lease_seconds: how long a lease lasts without renewal; the same for all processes
        steady: the clock of leases
        records: how sessions are written

    Raises:
        OSError: the file cannot be opened or made.
        ValueError: it is something else, or of another version.

    `Transactions` does all work, even if its caller was cancelled. If `acquire` is cancelled, the lease is given back.
    """

    shared: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        capacity: int,
        now: Callable[[], datetime] = utc_now,
        lease_seconds: float = LEASE_SECONDS,
        steady: Callable[[], float] = time.monotonic,
        records: Records = PLAIN,
    ) -> None:
        self._records = records
        self._capacity = capacity
        self._now = now
        self._lease = round(lease_seconds * 1e6)
        self._steady = steady
        self._transactions = Transactions(Path(path).absolute())

    @property
    def memory(self) -> int:
        """See `Store`."""
        return 0

    async def add(self, sessions: Sequence[Session]) -> None:
        """See `Store`."""
        add = partial(self._add, sessions, current_share())
        if (problem := await self._transactions.do(add, pack=partial(self._packed, *sessions))) is not None:
            raise problem

    async def get(self, key: Key) -> Session:
        """See `Store`."""
        return await self._transactions.do(lambda: self._session(key, self._find(key)), READ)

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """See `Store`."""
        return await self._transactions.do(lambda: self._page(tenant, after, count), READ)

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """See `Store`."""
        taking = self._transactions.submit(lambda: self._acquire(key, call_id))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_back)
            raise

    async def write(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._transactions.do(partial(self._write, lease, session, True), pack=partial(self._packed, session))

    async def release(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._transactions.do(partial(self._write, lease, session, False), pack=partial(self._packed, session))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Store`."""
        return await self._transactions.do(lambda: [lease for lease in leases if not self._renew(lease)])

    async def delete(self, key: Key) -> Session:
        """See `Store`."""
        return await self._transactions.do(lambda: self._delete(key), frees=True)

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """See `Store`."""
        erased = list[Erased]()
        while len(erased) < count:
            batch, more = await self._transactions.do(partial(self._erase, tenant, count - len(erased)), frees=True)
            erased += batch
            if not more:
                await self._transactions.outside(forgotten.empty_log_for_good)
                break
        return erased

    async def kept(self, share: Share) -> Kept:
        """See `Store`."""
        return await self._transactions.do(lambda: kept_for(self._transactions.connection, share), READ)

    async def count(self) -> int:
        """See `Store`."""
        return await self._transactions.do(lambda: kept_for_all(self._transactions.connection), READ)

    async def sweep(self) -> int:
        """See `Store`."""
        swept = 0
        while batch := await self._transactions.do(self._sweep, frees=True):
            swept += batch
        while await self._transactions.do(
            lambda: forgotten.drop_old_tombstones(self._transactions.connection, self._now(), self._batch()), frees=True
        ):
            pass
        await self._transactions.do(
            lambda: buckets.forget_full(self._transactions.connection, to_microseconds(self._now()))
        )
        await self._transactions.do(self._transactions.reserve.hold)
        return swept

    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        """See `Ledger`."""
        work = partial(
            buckets.spend, self._transactions.connection, name, tokens, rate, burst, to_microseconds(self._now())
        )
        return await self._transactions.do(work, WRITE if tokens else READ)

    async def check(self) -> None:
        """See `Store`."""
        await self._transactions.do(lambda: None)

    async def close(self) -> None:
        """See `Store`."""
        await self._transactions.close()

    # What the thread does.

    def _add(self, sessions: Sequence[Session], share: Share, records: Sequence[bytes]) -> EngineError | None:
        """Add sessions. Returns a refusal instead of raising it, so that sweeping is not rolled back."""
        (free_pages,) = self._sql("PRAGMA freelist_count").fetchone()
        if not self._transactions.reserve.hold() and free_pages < self._transactions.reserve.spare_pages:
            raise StoreFull(f"less than {2 * self._transactions.reserve.size / 1e6:.3g} MB of its disk are free")
        keys = set[Key]()
        for session in sessions:
            row = self._row(session.key)
            if session.key in keys or (row is not None and not self._expired(row)):
                raise SessionExists(session.id)
            keys.add(session.key)
        more = Kept(len(sessions), sum(session.memory for session in sessions))
        while (problem := refusal(self._transactions.connection, self._capacity, share, more)) is not None:
            if not self._sweep():
                return problem
        self._transactions.connection.executemany(
            "DELETE FROM sessions WHERE tenant = ? AND id = ?", keys
        )  # they have expired
        for session, record in zip(sessions, records, strict=True):
            self._insert(session, record, fence=0, held=False, call_id="", owner=share.name)
        return None

    def _page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        rows = self._transactions.connection.execute(
            "SELECT id, record FROM sessions JOIN records ON session = number "
            f"WHERE tenant = :tenant AND id > :after AND (expires > :now OR {_LIVE}) ORDER BY id LIMIT :count",
            {"tenant": tenant, "after": after, "count": count, **self._times()},
        )
        return [self._records.read(Key(tenant, session_id), data) for session_id, data in rows]

    def _acquire(self, key: Key, call_id: str) -> Lease:
        row = self._find(key)
        session = self._session(key, row)
        same_call = bool(row.held) and call_id != "" and row.call_id == call_id
        if row.live and not same_call:
            raise SessionBusy(key.id, session.snapshot.position)
        self._sql("UPDATE counters SET fence = fence + 1")
        (fence,) = self._sql("SELECT fence FROM counters").fetchone()
        self._sql(
            "UPDATE sessions SET fence = ?, held = 1, lease_until = ?, call_id = ? WHERE number = ?",
            *(fence, self._lease_until(), call_id, row.number),
        )
        return Lease(session, fence, same_call)

    def _packed(self, *sessions: Session) -> Sequence[bytes]:
        return [self._records.pack(session) for session in sessions]

    def _write(self, lease: Lease, session: Session, held: bool, records: Sequence[bytes]) -> None:
        (record,) = records
        row = self._row(session.key)
        if row is None:
            self._write_back(lease, session, record, held=held)
            return
        if not row.held or row.fence != lease.fence:
            raise SessionTakenOver(session.id)
        self._sql(
            "UPDATE sessions SET expires = ?, held = ?, lease_until = ?, call_id = ? WHERE number = ?",
            *(to_microseconds(session.expires), held, self._lease_until() if held else 0),
            *(row.call_id if held else "", row.number),
        )
        self._sql("UPDATE records SET record = ? WHERE session = ?", record, row.number)
        hold(self._transactions.connection, row.number, session)

    def _write_back(self, lease: Lease, session: Session, record: bytes, *, held: bool) -> None:
        """Write a session that the file has no longer: it expired after its lease ended, or the file was emptied."""
        if not forgotten.may_write(self._transactions.connection, lease):
            raise SessionTakenOver(session.id)
        self._sql("UPDATE counters SET fence = max(fence, ?)", lease.fence)
        call_id = session.call.id if held and session.call is not None else ""
        self._insert(session, record, lease.fence, held, call_id)

    def _renew(self, lease: Lease) -> bool:
        row = self._row(lease.session.key)
        if row is None:
            return forgotten.may_write(self._transactions.connection, lease)
        if row.fence != lease.fence:
            return False
        # Extend neither a lease that was just given back nor that of an expired session.
        if row.held and not self._expired(row):
            self._sql("UPDATE sessions SET lease_until = ? WHERE number = ?", self._lease_until(), row.number)
        return True

    def _drop(self, lease: Lease) -> None:
        self._sql(
            "UPDATE sessions SET held = 0, lease_until = 0, call_id = '' WHERE tenant = ? AND id = ? AND fence = ?",
            *(*lease.session.key, lease.fence),
        )

    def _delete(self, key: Key) -> Session:
        row = self._find(key)
        session = self._session(key, row)
        if row.live:
            raise SessionBusy(key.id, session.snapshot.position)
        self._sql("DELETE FROM sessions WHERE number = ?", row.number)
        at = to_microseconds(self._now())
        self._sql("INSERT OR REPLACE INTO tombstones VALUES (?, ?, 'deleted', ?, 0)", *key, at)
        return session

    def _erase(self, tenant: str, count: int) -> tuple[list[Erased], bool]:
        """Erase some of a tenant's sessions; returns them, and whether there may be more."""
        most = min(count, self._batch())
        erased = forgotten.erase(self._transactions.connection, tenant, most, self._now())
        return erased, len(erased) == most

    def _sweep(self) -> int:
        """Remove some expired sessions; returns how many."""
        return forgotten.sweep(self._transactions.connection, _LIVE, self._batch(), self._times())

    def _batch(self) -> int:
        """Most sessions to sweep in one transaction; fewer on a full disk, since some pages of each go to the log."""
        return (
            _BATCH if self._transactions.reserve.held else max(1, min(_BATCH, self._transactions.reserve.size // 2**17))
        )

    # Helpers of the thread's work.

    def _find(self, key: Key) -> _Row:
        row = self._row(key)
        if row is None:
            raise forgotten.what_became_of(self._transactions.connection, key)
        if self._expired(row):
            raise SessionExpired(key.id, from_microseconds(row.expires))
        return row

    def _row(self, key: Key) -> _Row | None:
        row = self._transactions.connection.execute(
            f"SELECT number, expires, fence, held, call_id, {_LIVE} FROM sessions WHERE tenant = :tenant AND id = :id",
            {"tenant": key.tenant, "id": key.id, **self._times()},
        ).fetchone()
        return None if row is None else _Row(*row)

    def _session(self, key: Key, row: _Row) -> Session:
        (data,) = self._sql("SELECT record FROM records WHERE session = ?", row.number).fetchone()
        return self._records.unpack(key, data)

    def _insert(
        self, session: Session, record: bytes, fence: int, held: bool, call_id: str, owner: str | None = None
    ) -> None:
        self._sql("DELETE FROM tombstones WHERE tenant = ? AND id = ?", *session.key)
        lease_until = self._lease_until() if held else 0
        number = self._sql(
            "INSERT INTO sessions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            *(*session.key, to_microseconds(session.expires), fence, held, lease_until, call_id),
        ).lastrowid
        self._sql("INSERT INTO records VALUES (?, ?)", number, record)
        hold(self._transactions.connection, number, session, owner)

    def _expired(self, row: _Row) -> bool:
        return row.expires <= to_microseconds(self._now()) and not row.live

    def _lease_until(self) -> int:
        return self._times()["steady"] + self._lease

    def _times(self) -> dict[str, int]:
        return {"now": to_microseconds(self._now()), "steady": int(self._steady() * 1e6), "lease": self._lease}

    def _sql(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._transactions.connection.execute(statement, values)

    def _give_back(self, taken: asyncio.Future[Lease]) -> None:
        """Give back the lease of a cancelled `acquire`."""
        if taken.cancelled() or taken.exception() is not None:
            return
        lease = taken.result()
        with contextlib.suppress(EngineError):
            # If this fails, the lease ends by itself.
            self._transactions.submit(lambda: self._drop(lease)).add_done_callback(lambda done: done.exception())
