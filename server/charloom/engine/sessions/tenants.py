"""Exports and erases all sessions of a tenant."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from charloom.engine.errors import SessionOfAnotherModel
from charloom.engine.limits import Limits
from charloom.engine.model_errors import ModelRetired
from charloom.engine.sessions.checks import require_id, require_time_to_live
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.stores.store import Erased, Store

PAGE = 50
"""Sessions that an export reads at a time, and has in memory."""
BATCH = 100
"""Sessions that are erased at a time."""


@dataclass(frozen=True)
class ExportedSession:
    """A session as it is exported."""

    session: Session
    text: str = ""
    """Its kept text, from the earliest kept position to the present."""
    state: bytes = b""
    """The present state as a sealed token, for the same tenant."""
    state_expires: datetime | None = None
    problem: str = ""
    """Why there is neither text nor state; empty if there are both."""


@dataclass
class Erasure:
    """Counts what was erased of a tenant so far."""

    sessions: int = 0
    bytes: int = 0
    """Bytes of memory, as a limit of `session_bytes` counts them."""
    ids_sha256: str = hashlib.sha256().hexdigest()
    """SHA-256 of the ids, each followed by a newline, in the order in which they were erased: sorted by id."""


class Tenants:
    """An administrator's operations on all sessions of one tenant. Everything may raise `StoreUnavailable`.

    Args:
        store: keeps the sessions
        sessions: knows their writers
        sealed: seals their states
        limits: bounds the time for which sealed states are valid
    """

    def __init__(self, store: Store, sessions: Sessions, sealed: SealedStates, limits: Limits) -> None:
        self._store = store
        self._sessions = sessions
        self._sealed = sealed
        self._limits = limits

    def require_export(self, time_to_live: timedelta | None) -> None:
        """Check the options of an export.

        Raises:
            InvalidRequest: the time to live is out of range.
        """
        require_time_to_live(time_to_live, self._limits)

    async def export(self, tenant: str, time_to_live: timedelta | None) -> AsyncIterator[ExportedSession | Unreadable]:
        """Yield all its sessions in the order of their ids, each as last written; reads `PAGE` of them at a time.

        Args:
            tenant: the tenant
            time_to_live: of the sealed states; None: the default
        """
        after, more = "", True
        while more:
            page = await self._store.page(tenant, after, PAGE)
            for one in page:
                yield one if isinstance(one, Unreadable) else self._exported(one, time_to_live)
            more = len(page) == PAGE
            after = page[-1].id if more else ""

    async def erase(self, tenant: str, erasure: Erasure) -> None:
        """Erase all its sessions, readable or not; calls that write them end with `SessionDeleted`.

        When this returns, there was a moment at which the tenant had no session. Sessions that it makes later are kept.

        Args:
            tenant: the tenant
            erasure: counts what was erased; correct also if this raises
        """
        await self._store.sweep()
        ids, more = hashlib.sha256(), True

        def count(batch: Sequence[Erased]) -> None:
            for one in batch:
                erasure.sessions += 1
                erasure.bytes += one.bytes
                ids.update(f"{one.id}\n".encode())
            erasure.ids_sha256 = ids.hexdigest()

        async def erase_batch() -> Sequence[Erased]:
            batch = await self._store.erase(tenant, BATCH)
            await self._sessions.end_calls_of([Key(tenant, one.id) for one in batch])
            return batch

        while more:
            erasing = asyncio.ensure_future(erase_batch())
            try:
                batch = await asyncio.shield(erasing)
            except asyncio.CancelledError:
                # The store finishes what it has begun, so this batch counts too.
                count(await erasing)
                raise
            count(batch)
            more = len(batch) == BATCH
            await asyncio.sleep(0)  # a store in memory never waits, so give other tasks a turn

    def _exported(self, session: Session, time_to_live: timedelta | None) -> ExportedSession:
        try:
            model = self._sessions.model_of(session)
        except (SessionOfAnotherModel, ModelRetired) as problem:
            return ExportedSession(session, problem=str(problem))
        text = session.history.text(model.vocabulary)
        state, expires = self._sealed.seal(model, session.snapshot, session.tenant, time_to_live)
        return ExportedSession(session, text, state, expires)


def require_tenant(tenant: str) -> None:
    """Check the name of a tenant from a request; it is empty for callers that have none.

    Raises:
        InvalidRequest: it is malformed.
    """
    if tenant:
        require_id("tenant", tenant)
