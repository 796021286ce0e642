"""All that is kept of a tenant, as a whole: listed, exported, erased."""

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
"""Sessions that are read at a time: what an export has in memory."""
BATCH = 100
"""Sessions that are erased at a time."""


@dataclass(frozen=True)
class ExportedSession:
    """A session with all that can be given out of it."""

    session: Session
    text: str = ""
    """The text that is kept of it: from its earliest position to the present."""
    state: bytes = b""
    """The present state as a sealed token, for the same tenant."""
    state_expires: datetime | None = None
    problem: str = ""
    """Why there is neither text nor state; empty where there is."""


@dataclass
class Erasure:
    """What was erased of a tenant so far."""

    sessions: int = 0
    bytes: int = 0
    """Of memory, as a limit of `session_bytes` counts them."""
    ids_sha256: str = hashlib.sha256().hexdigest()
    """SHA-256 of the ids, each followed by a newline, in the order in which they were erased: that of the ids."""


class Tenants:
    """What an administrator can do with all sessions of one tenant. Everything may raise `StoreUnavailable`.

    Args:
        store: where they are
        sessions: knows who is writing them
        sealed: makes tokens of them
        limits: how long these may be valid
    """

    def __init__(self, store: Store, sessions: Sessions, sealed: SealedStates, limits: Limits) -> None:
        self._store = store
        self._sessions = sessions
        self._sealed = sealed
        self._limits = limits

    def require_export(self, time_to_live: timedelta | None) -> None:
        """Check what an export asks for.

        Raises:
            InvalidRequest: the time to live is out of range.
        """
        require_time_to_live(time_to_live, self._limits)

    async def export(self, tenant: str, time_to_live: timedelta | None) -> AsyncIterator[ExportedSession | Unreadable]:
        """All its sessions in the order of their ids, each as it was written last; `PAGE` of them are in memory.

        Args:
            tenant: whose
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
        """Forget all its sessions, whether they can be read or not; calls that write them end with `SessionDeleted`.

        At the end there was a moment at which the tenant had no session. What it makes afterwards is kept.

        Args:
            tenant: whose
            erasure: is told what has been erased, also where this breaks off
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
                # What a store has begun, it does all the same.
                count(await erasing)
                raise
            count(batch)
            more = len(batch) == BATCH
            await asyncio.sleep(0)  # a store in memory never waits, and others want to be served

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
