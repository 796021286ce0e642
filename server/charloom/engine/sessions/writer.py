"""The one writer of a session, from the moment it is acquired until it is given back.

It is the `StateSink` of a generation: it collects the tokens and the states that may become checkpoints, and writes
them to the store at the end, or, where servers share the store, about once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

from charloom.engine.clock import utc_now
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import EngineError, SessionDeleted, SessionNotFound, SessionTakenOver
from charloom.engine.sessions.session import Call, History, Session, spacing
from charloom.engine.sessions.stores.store import Lease, Store

log = logging.getLogger(__name__)

MOST_TOKENS = 2**17
"""A call that cannot be resumed is divided into parts of about so many tokens. Once a part was handed out, the session
keeps of it what it keeps of an earlier call."""
CHECKPOINT_SECONDS = 1.0
"""How often a session in a shared store is written while it generates: what another server would do again at most."""


class SessionWriter:
    """Brings a session forward from one state, and writes it.

    Args:
        store: where the session is
        lease: the right to write it
        call_id: of the call that writes; empty if it cannot be resumed
        keep: positions to keep at least
        ended: called once, when the session was given back
    """

    def __init__(
        self, store: Store, lease: Lease, call_id: str, keep: int, ended: Callable[[SessionWriter], None]
    ) -> None:
        self.call_id = call_id
        self.session = lease.session
        """As it was written last."""
        self.lease = lease
        self._store = store
        self._keep = keep
        self._ended = ended
        self._writing = asyncio.Lock()
        self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        self._checkpoint: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[Session] | None = None
        self._over = asyncio.Event()
        self._lost: EngineError | None = None
        """What to tell the caller, once what this one writes is refused."""
        self._on_lost: Callable[[EngineError], None] | None = None
        self.ending = False
        """Whether its call was given up, so that the session will be free in a moment."""
        self.begin_at(lease.session.snapshot, lease.session.history)

    def begin_at(
        self, snapshot: Snapshot, history: History, call: Call | None = None, prompt: Sequence[int] = ()
    ) -> None:
        """Say where the call begins, if that is not where the session stands.

        Args:
            snapshot: the state
            history: up to there
            call: what to remember of the call, if it can be resumed
            prompt: tokens that the call reads first; `on_tokens` is not called for them
        """
        self._states = [snapshot]
        self._tokens: list[int] = list(prompt)
        self._history = history
        self._call = call

    @property
    def present(self) -> Snapshot:
        """The latest state that `on_tokens` was given; before that, where the call began."""
        return self._states[-1]

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Take tokens that were read or generated, and the state after them."""
        self._tokens += tokens
        # Only some may become checkpoints; and the latest, until there is a later one.
        if len(self._states) > 1 and self.present.position - self._states[-2].position < spacing(self._keep):
            self._states.pop()
        self._states.append(snapshot)

    def truncate(self, snapshot: Snapshot) -> None:
        """Forget what came after this state, one that `on_tokens` was given, or the first."""
        del self._tokens[snapshot.position - self._states[0].position :]
        first, *others = self._states
        self._states = [first, *(state for state in others if state.position < snapshot.position)]
        if snapshot is not first:
            self._states.append(snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        """What was handed out is not taken back any more.

        Write a checkpoint, if the last is a while ago and another server may have to go on from it.
        """
        if self._call is None and snapshot.position - self._states[0].position >= MOST_TOKENS:
            self._begin_part(snapshot)
        now = time.monotonic()
        if self._store.shared and now >= self._next_checkpoint and not self._writing.locked():
            self._next_checkpoint = now + CHECKPOINT_SECONDS
            self._checkpoint = asyncio.create_task(self._write(self._grown(snapshot)))

    def _begin_part(self, snapshot: Snapshot) -> None:
        count = snapshot.position - self._states[0].position
        past = [state for state in self._states if state.position <= snapshot.position]
        self._history = self._history.grown(self._tokens[:count], past, self._keep)
        self._states = [snapshot, *self._states[len(past) :]]
        del self._tokens[:count]

    def on_cancelled(self) -> None:
        """The call was given up: `close` follows in a moment."""
        self.ending = True

    def on_lost(self, tell: Callable[[EngineError], None]) -> None:
        """Have what to tell the caller told once what this one writes is refused, until it gives the session back.

        That is where another writer has taken the session over, or it was erased.
        """
        if self._lost is not None:
            tell(self._lost)
        elif not self._over.is_set():
            self._on_lost = tell

    def lose(self, why: EngineError) -> None:
        """What this one writes is refused from now on."""
        if self._lost is None:
            self._lost = why
            if self._on_lost is not None:
                self._on_lost(why)

    def require_not_lost(self) -> None:
        """Raises what to tell the caller, once what this one writes is refused."""
        if self._lost is not None:
            raise self._lost

    async def find_out_why(self) -> EngineError:
        """What to tell the caller of a writer that the store refuses."""
        try:
            return self.why_lost_to(await self._store.get(self.session.key))
        except SessionNotFound as gone:
            return gone
        except EngineError as problem:
            log.warning("what became of session %s is not known: %s", self.session.id, problem)
        return SessionTakenOver(self.session.id)

    def why_lost_to(self, now: Session) -> EngineError:
        """What to tell the caller of a writer that the store refuses, by the session that is under its id now."""
        if now.created != self.session.created:  # it was forgotten, and made anew
            return SessionDeleted(now.id, now.created)
        return SessionTakenOver(now.id)

    async def close(self, snapshot: Snapshot | None) -> Session:
        """Write the session's last state, and give it back with its whole time to live ahead.

        That is done to its end even where who waits for it is cancelled.

        Args:
            snapshot: the state; None leaves the session as it was written last

        Raises:
            SessionTakenOver: another call goes on with it.
            SessionNotFound: or SessionExpired, SessionDeleted: it was forgotten or erased meanwhile.
            StoreUnavailable, StoreFull: it could not be written.
        """
        return await self._end(lambda: self.session.renewed(utc_now()) if snapshot is None else self._grown(snapshot))

    @contextlib.asynccontextmanager
    async def given_back_on_error(self) -> AsyncIterator[None]:
        """Around the beginning of a call: where that fails, the session is given back as it was."""
        try:
            yield
        except BaseException:
            await self.give_back()
            raise

    async def give_back(self) -> None:
        """Leave the session as it was, because its call could not begin; where that fails, the lease ends by itself."""
        try:
            await self.close(None)
        except EngineError as problem:
            log.warning("session %s was not given back: %s", self.session.id, problem)

    async def close_with(self, session: Session) -> Session:
        """Write this and give it back, as `close` does; raises as that."""
        return await self._end(lambda: session)

    async def write(self, session: Session) -> None:
        """Write this and keep the session; raises as `close`."""
        async with self._writing:
            try:
                await self._store.write(self.lease, session)
            except SessionTakenOver:
                raise await self.find_out_why() from None
            self.session = session

    async def ends_within(self, seconds: float) -> bool:
        """Whether it has given the session back, or will have within this time."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _end(self, last: Callable[[], Session]) -> Session:
        """Give the session back as what `last` returns once nothing else is being written."""
        if not self._store.waits:  # nothing can cancel it
            return await self._release(last)
        # In a task of its own: the call may be cancelled while it waits, and nobody else gives the session back.
        self._closing = asyncio.create_task(self._release(last))
        try:
            return await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self.ending = True
            self._closing.add_done_callback(log_failure)
            raise

    async def _release(self, last: Callable[[], Session]) -> Session:
        async with self._writing:
            try:
                session = last()
                await self._store.release(self.lease, session)
            except SessionTakenOver:
                raise await self.find_out_why() from None
            finally:
                self._ended(self)
                self._over.set()
                self._on_lost = None  # it has the call, which has this writer
            return session

    def _grown(self, snapshot: Snapshot) -> Session:
        tokens = self._tokens[: snapshot.position - self._states[0].position]
        history = self._history.grown(tokens, self._states, self._keep, self._call)
        return self.lease.session.changed(utc_now(), snapshot, history, self._call)

    async def _write(self, session: Session) -> None:
        async with self._writing:
            try:
                await self._store.write(self.lease, session)
                self.session = session
            except SessionTakenOver:
                self.lose(await self.find_out_why())
            except EngineError as problem:
                # What is missing is generated again, if it comes to that.
                log.warning("session %s was not written on the way: %s", session.id, problem)


async def end_together(endings: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Give several sessions back at the same time: all of them, even where who waits for it is cancelled.

    Args:
        endings: as `SessionWriter.close`, of a writer each

    Raises:
        what the first of them that failed has raised, once all have ended.
    """
    for ended in await asyncio.shield(asyncio.gather(*endings, return_exceptions=True)):
        if isinstance(ended, BaseException):
            raise ended


def log_failure(closing: asyncio.Task[Any]) -> None:
    """Tell of a session that could not be written at the end of its call, where no caller is left to tell."""
    if not closing.cancelled() and closing.exception() is not None:
        log.warning("a session was not committed: %s", closing.exception())
