"""Wraps a session store to measure the duration and count the errors of its operations."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from charloom.engine.errors import EngineError, StoreFull, StoreUnavailable
from charloom.engine.quotas import Kept
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.store import Erased, Lease, Store
from charloom.engine.shares import Share
from charloom.engine.telemetry import Totals, current_call

T = TypeVar("T")


class ObservedStore:
    """A `Store` that delegates to another, and measures it.

    Args:
        store: the wrapped store
        totals: counts durations and errors; those of a call are added to its record too
    """

    def __init__(self, store: Store, totals: Totals) -> None:
        self._store = store
        self._totals = totals

    @property
    def shared(self) -> bool:
        """See `Store`."""
        return self._store.shared

    @property
    def waits(self) -> bool:
        """See `Store`."""
        return self._store.waits

    @property
    def memory(self) -> int:
        """See `Store`."""
        return self._store.memory

    async def add(self, sessions: Sequence[Session]) -> None:
        """See `Store`."""
        await self._timed("add", self._store.add(sessions))

    async def get(self, key: Key) -> Session:
        """See `Store`."""
        return await self._timed("get", self._store.get(key))

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """See `Store`."""
        return await self._timed("page", self._store.page(tenant, after, count))

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """See `Store`."""
        return await self._timed("acquire", self._store.acquire(key, call_id))

    async def write(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._timed("write", self._store.write(lease, session))

    async def release(self, lease: Lease, session: Session) -> None:
        """See `Store`."""
        await self._timed("release", self._store.release(lease, session))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `Store`."""
        return await self._timed("renew", self._store.renew(leases))

    async def delete(self, key: Key) -> Session:
        """See `Store`."""
        return await self._timed("delete", self._store.delete(key))

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """See `Store`."""
        return await self._timed("erase", self._store.erase(tenant, count))

    async def kept(self, share: Share) -> Kept:
        """See `Store`."""
        return await self._timed("kept", self._store.kept(share))

    async def count(self) -> int:
        """See `Store`."""
        return await self._timed("count", self._store.count())

    async def sweep(self) -> int:
        """See `Store`."""
        return await self._timed("sweep", self._store.sweep())

    async def check(self) -> None:
        """See `Store`."""
        await self._timed("check", self._store.check())

    async def close(self) -> None:
        """See `Store`."""
        await self._store.close()

    async def _timed(self, operation: str, done: Awaitable[T]) -> T:
        began, error = time.monotonic(), ""
        try:
            return await done
        except (StoreUnavailable, StoreFull) as problem:
            error = problem.reason
            raise
        except EngineError:  # of the session, not of the store
            raise
        except Exception:
            error = "UNEXPECTED"
            raise
        finally:
            ended = time.monotonic()
            self._totals.stored(operation, ended - began, error)
            current_call().stored(operation, began, ended)
