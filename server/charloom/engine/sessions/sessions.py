"""Operations on sessions that compute nothing: make, find, rewind, copy, seal, acquire, delete."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from charloom.engine.clock import utc_now
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    EngineError,
    InvalidRequest,
    SessionBusy,
    SessionDeleted,
    SessionOfAnotherModel,
    SessionTakenOver,
)
from charloom.engine.limits import MOST_FORKS, Limits
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.sessions.checks import (
    require_fits,
    require_id,
    require_position,
    require_seed,
    require_time_to_live,
)
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.seeds import new_seed, next_seed
from charloom.engine.sessions.session import History, Key, Origin, Session
from charloom.engine.sessions.stores.store import Lease, Store
from charloom.engine.sessions.writer import SessionWriter

log = logging.getLogger(__name__)

T = TypeVar("T")
_ARRIVES, _ENDS = 0.02, 1.0
"""Seconds that a call waits for a session whose last call may be about to be cancelled (also on another server), and
that it waits for a call that is cancelled to end."""


class Sessions:
    """The sessions of an engine.

    Args:
        store: keeps the sessions
        models: the models that they belong to
        limits: what to accept
        sealed: seals their states

    Every method may raise `StoreUnavailable`; those that write, `StoreFull`. Methods that take a key raise
    `SessionNotFound`, `SessionExpired` or `SessionDeleted` if there is no such session; those that change it,
    `SessionBusy` if a call is using it.
    """

    def __init__(self, store: Store, models: Models, limits: Limits, sealed: SealedStates) -> None:
        self._store = store
        self._models = models
        self._limits = limits
        self._sealed = sealed
        self._writers: dict[Key, SessionWriter] = {}

    # Make and find.

    async def create(
        self,
        *,
        tenant: str = "",
        model: str = "",
        session_id: str = "",
        seed: int | None = None,
        time_to_live: timedelta | None = None,
        adaptive: bool = False,
    ) -> Session:
        """Make a session with zero state; `adaptive`: it learns from its text.

        Raises:
            InvalidRequest: the id or the time to live is malformed, the seed out of range, or its model cannot learn.
            ModelNotFound: there is no such model.
            SessionExists: the id is in use.
            Overloaded: the store takes no more sessions.
        """
        require_seed(seed)
        chosen = self._models.named(model)
        start = chosen.fresh(new_seed() if seed is None else seed, adaptive=adaptive)
        history = History.fresh(chosen.decoder.shape, chosen.bundle.manifest.start_token, adaptive=adaptive)
        session = self._new(chosen, Key(tenant, session_id), start, history, None, time_to_live)
        await self._store.add([session])
        return session

    async def create_from(self, key: Key, model: Model, snapshot: Snapshot, time_to_live: timedelta | None) -> Session:
        """Make a session that starts at a state, without history; raises as `create`."""
        history = History.starting(snapshot, model.decoder.shape)
        session = self._new(model, key, snapshot, history, Origin("", snapshot.position), time_to_live)
        await self._store.add([session])
        return session

    async def get(self, key: Key) -> Session:
        """Read a session; waits for a cancelled call of it to end."""
        await self._let_a_cancelled_call_end(key)
        return await self._store.get(key)

    def model_of(self, session: Session, wanted: str = "") -> Model:
        """The model that a session's state belongs to.

        Args:
            session: the session
            wanted: the model name in the request; empty if it names none

        Raises:
            ModelNotFound: there is no model of the wanted name.
            SessionOfAnotherModel: the session's model is not the wanted one, or not loaded here.
            ModelRetired: it was loaded here, and its grace has ended.
            StoreUnavailable: the session's states do not fit the model.
        """
        if wanted not in ("", session.model):
            self._models.named(wanted)
            raise SessionOfAnotherModel(session.id, session.model, wanted)
        model = self._models.with_digest(session.model_digest, adaptive=session.adaptive)
        if model is None:
            advice = "move it to another (MoveSession, over HTTP POST .../move; charloom sessions move)"
            self._models.require_not_retired(f"session {session.id!r}", session.model, session.model_digest, advice)
            other = self._models.loaded(session.model)
            names = ", ".join(one.name for one in self._models)
            loaded = f"{other.name} ({other.digest[:12]})" if other else names
            its = f"{session.model} ({session.model_digest[:12]})" if other else session.model
            raise SessionOfAnotherModel(session.id, its, loaded, absent=True)
        require_fits(session, model.decoder.shape)
        return model

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """Up to `count` of a tenant's sessions whose ids come after `after`, in the order of their ids."""
        return await self._store.page(tenant, after, count)

    async def delete(self, key: Key) -> tuple[Session, datetime]:
        """Delete a session and its history; returns the session as it was, and the time."""
        await self._let_a_cancelled_call_end(key)
        return await self._patiently(lambda: self._store.delete(key)), utc_now()

    # Change.

    async def renew(self, key: Key, time_to_live: timedelta | None) -> Session:
        """Set a session's time to live (None: keep it), and let it start again.

        Raises:
            InvalidRequest: the time to live is out of range.
        """
        if time_to_live is not None:
            require_time_to_live(time_to_live, self._limits)
        return await self._change(
            key,
            lambda session: replace(
                session, time_to_live=session.time_to_live if time_to_live is None else time_to_live
            ).renewed(utc_now()),
        )

    async def rewind(self, key: Key, position: int, seed: int | None, expected_position: int | None) -> Session:
        """Put a session back to an earlier position.

        Raises:
            PositionNotKept: it is in the future, or no longer kept.
            StalePosition: the session is not where it was expected.
            SessionOfAnotherModel: its model is not loaded here.
            InvalidRequest: the seed is out of range.
        """
        require_seed(seed)

        def rewound(session: Session) -> Session:
            require_position(session, expected_position)
            wanted = session.snapshot.seed if seed is None else seed
            snapshot, history = self._at(session, position)
            return session.changed(utc_now(), replace(snapshot, seed=wanted), history)

        return await self._change(key, rewound)

    async def fork(
        self,
        key: Key,
        *,
        position: int | None,
        count: int,
        seed: int | None,
        ids: Sequence[str],
        time_to_live: timedelta | None,
    ) -> list[Session]:
        """Make copies of a session, as it is or as it was at an earlier position.

        Raises:
            InvalidRequest: the count, an id or the time to live is malformed.
            PositionNotKept: the position is in the future, or no longer kept.
            SessionExists: an id is in use.
            Overloaded: the store takes no more sessions.
            SessionOfAnotherModel: its model is not loaded here.
        """
        require_seed(seed)
        if not 1 <= count <= MOST_FORKS:
            raise InvalidRequest("count", f"{count} is not allowed; from 1 to {MOST_FORKS}")
        if ids and len(ids) != count:
            raise InvalidRequest("new_session_ids", f"there are {len(ids)} ids for {count} copies; give one for each")
        if len(set(ids)) != len(ids):
            raise InvalidRequest("new_session_ids", "two of them are the same")
        session = await self.get(key)
        model = self.model_of(session)
        position = session.snapshot.position if position is None else position
        snapshot, history = self._at(session, position)
        origin = Origin(session.id, position)
        forks = [
            self._new(
                model,
                Key(key.tenant, ids[number] if ids else ""),
                replace(snapshot, seed=new_seed() if seed is None else next_seed(seed, number)),
                history,
                origin,
                session.time_to_live if time_to_live is None else time_to_live,
                named=bool(ids),
            )
            for number in range(count)
        ]
        await self._store.add(forks)
        return forks

    # Seal.

    async def export(self, key: Key, time_to_live: timedelta | None) -> tuple[bytes, datetime]:
        """Make a token of a session's state; returns it with its expiry.

        Raises:
            InvalidRequest: the time to live is out of range.
            SessionOfAnotherModel: its model is not loaded here.
        """
        session = await self.get(key)
        return self._sealed.seal(self.model_of(session), session.snapshot, key.tenant, time_to_live)

    async def import_(self, token: bytes, key: Key, time_to_live: timedelta | None) -> tuple[Session, bool]:
        """Make a session from a token; returns it, and whether its text continues bit for bit.

        Raises:
            SealedState...: the token cannot be used; others as `create`.
        """
        unsealed = self._sealed.unseal(token, key.tenant)
        return await self.create_from(key, unsealed.model, unsealed.snapshot, time_to_live), unsealed.exact

    # Writers.

    async def acquire(self, key: Key, call_id: str = "") -> SessionWriter:
        """Acquire the right to write a session, which one writer has at a time.

        Args:
            key: of the session
            call_id: of the call; if a call with the same id has the session still (it broke off unnoticed), the new one
                takes the session over
        """
        running = self._writers.get(key)
        if running is not None and call_id and running.call_id == call_id:
            running.lose(SessionTakenOver(key.id))
            await running.ends_within(_ENDS)
        else:
            await self._let_a_cancelled_call_end(key)
        lease = await self._patiently(lambda: self._store.acquire(key, call_id))
        return self._writer(lease, call_id)

    async def keep_leases(self) -> None:
        """Renew the leases of the writers here, and call `SessionWriter.lose` where a lease was lost."""
        writers = list(self._writers.values())
        if not writers:
            return
        for writer in await self._lost(writers):
            writer.lose(await writer.find_out_why())

    @property
    def memory(self) -> int:
        """Bytes that the store takes in this process."""
        return self._store.memory

    @property
    def writing(self) -> int:
        """Number of sessions that have a writer in this process."""
        return len(self._writers)

    async def all_written(self, seconds: float) -> None:
        """Wait until no session has a writer here, up to `seconds` for each."""
        await asyncio.gather(*(writer.ends_within(seconds) for writer in list(self._writers.values())))

    async def end_calls_of(self, erased: Sequence[Key]) -> None:
        """End the calls here that were writing erased sessions.

        Only those that have lost their lease: the call of a new session under the same id continues.
        """
        writers = [writer for key in erased if (writer := self._writers.get(key)) is not None]
        for writer in await self._lost(writers) if writers else ():
            writer.lose(SessionDeleted(writer.session.id, utc_now()))

    # The store.

    async def sweep(self) -> int:
        """Remove expired sessions; returns how many. Call it periodically."""
        return await self._store.sweep()

    async def count(self) -> int:
        """Number of sessions in the store, of all callers of all servers that share it."""
        return await self._store.count()

    async def check_store(self) -> None:
        """Check that the store can be used; raises if not."""
        await self._store.check()

    async def close(self) -> None:
        """Close the store; no method may be called afterwards."""
        await self._store.close()

    async def _lost(self, writers: Sequence[SessionWriter]) -> list[SessionWriter]:
        """Renew leases; returns the present writers that have lost theirs."""
        try:
            lost = await self._store.renew([writer.lease for writer in writers])
        except EngineError as problem:
            log.warning("leases were not renewed: %s", problem)
            return []
        return [one for one in writers if one.lease in lost and self._writers.get(one.session.key) is one]

    def _writer(self, lease: Lease, call_id: str) -> SessionWriter:
        if (before := self._writers.get(lease.session.key)) is not None:
            before.lose(before.why_lost_to(lease.session))
        writer = SessionWriter(self._store, lease, call_id, self._limits.rewind_tokens, self._written)
        self._writers[lease.session.key] = writer
        return writer

    def _written(self, writer: SessionWriter) -> None:
        if self._writers.get(writer.session.key) is writer:
            del self._writers[writer.session.key]

    async def _let_a_cancelled_call_end(self, key: Key) -> None:
        """Wait a moment if a cancelled call may still hold a session, so that the next call finds it free.

        A cancelled call holds its session until the loom's next tick, and its cancellation may arrive shortly after the
        next call.
        """
        running = self._writers.get(key)
        if running is not None and not await running.ends_within(_ARRIVES) and running.ending:
            await running.ends_within(_ENDS)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Retry `SessionBusy` for a moment if servers share the store: a cancelled call may be on another one."""
        if self._store.shared:
            for _ in range(3):
                try:
                    return await attempt()
                except SessionBusy:
                    await asyncio.sleep(_ARRIVES)
        return await attempt()

    async def _change(self, key: Key, change: Callable[[Session], Session]) -> Session:
        writer = await self.acquire(key)
        async with writer.given_back_on_error():
            self.model_of(writer.session)
            changed = change(writer.session)
        return await writer.close_with(changed)

    def _at(self, session: Session, position: int) -> tuple[Snapshot, History]:
        """The state at a kept position."""
        model = self.model_of(session)
        history = session.history.until(position)
        if position == session.snapshot.position:
            return session.snapshot, history
        return history.present(session.snapshot.seed, model.vocabulary), history

    def _new(
        self,
        model: Model,
        key: Key,
        snapshot: Snapshot,
        history: History,
        origin: Origin | None,
        time_to_live: timedelta | None,
        *,
        named: bool = False,
    ) -> Session:
        if key.id or named:
            require_id("session_id", key.id)
        time_to_live, now = require_time_to_live(time_to_live, self._limits), utc_now()
        return Session(
            id=key.id or secrets.token_urlsafe(16),
            tenant=key.tenant,
            model=model.name,
            model_digest=model.digest,
            snapshot=snapshot,
            history=history,
            version=0,
            created=now,
            updated=now,
            time_to_live=time_to_live,
            expires=now + time_to_live,
            origin=origin,
        )
