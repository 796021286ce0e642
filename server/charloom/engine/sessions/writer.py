"""The one writer of a session, from acquiring it to giving it back.

It is the `StateSink` of a generation: it collects the tokens and the states that may become checkpoints, and writes
them to the store at the end, and about once a second if servers share the store.
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
"""A call that cannot be resumed is divided into parts of about this many tokens. Once a part was handed out, the
session's history keeps no more of it than of an earlier call."""
CHECKPOINT_SECONDS = 1.0
"""Seconds between two writes of a generating session to a shared store: as much may have to be computed again."""


class SessionWriter:
    """Collects what a call does to a session, and writes it.

    Args:
        store: keeps the session
        lease: the right to write it
        call_id: of the call that writes; empty if it cannot be resumed
        keep: as for `History.grown`
        ended: called once, when the session was given back
    """

    def __init__(
        self, store: Store, lease: Lease, call_id: str, keep: int, ended: Callable[[SessionWriter], None]
    ) -> None:
        self.call_id = call_id
        self.session = lease.session
        """The session as last written."""
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
        """The error for the caller, once the store refuses this writer."""
        self._on_lost: Callable[[EngineError], None] | None = None
        self.ending = False
        """Whether its call was cancelled, so that the session will soon be free."""
        self.begin_at(lease.session.snapshot, lease.session.history)

    def begin_at(
        self, snapshot: Snapshot, history: History, call: Call | None = None, prompt: Sequence[int] = ()
    ) -> None:
        """Set where the call begins, if not at the session's present state.

        Args:
            snapshot: the state
            history: the history up to it
            call: remembered in the session, if the call can be resumed
            prompt: tokens that the call reads first; `on_tokens` is not called for them
        """
        self._states = [snapshot]
        self._tokens: list[int] = list(prompt)
        self._history = history
        self._call = call

    @property
    def present(self) -> Snapshot:
        """The latest state passed to `on_tokens`; at first, the state where the call began."""
        return self._states[-1]

    def on_tokens(self, tokens: Sequence[int], snapshot: Snapshot) -> None:
        """Add tokens that were read or generated, and the state after them."""
        self._tokens += tokens
        # Keep the latest state, and of the others those that are far enough apart for checkpoints.
        if len(self._states) > 1 and self.present.position - self._states[-2].position < spacing(self._keep):
            self._states.pop()
        self._states.append(snapshot)

    def truncate(self, snapshot: Snapshot) -> None:
        """Drop all tokens and states after this state, which was passed to `on_tokens`, or is the first."""
        del self._tokens[snapshot.position - self._states[0].position :]
        first, *others = self._states
        self._states = [first, *(state for state in others if state.position < snapshot.position)]
        if snapshot is not first:
            self._states.append(snapshot)

    def on_sent(self, snapshot: Snapshot) -> None:
        """Take note that text was handed out up to this state.

        In a shared store, this writes the session about once a second, so that another server can continue from there.
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
        """Take note that the call was cancelled: `close` follows in a moment."""
        self.ending = True

    def on_lost(self, tell: Callable[[EngineError], None]) -> None:
        """Call `tell` with the caller's error when another writer takes the session over, or it is erased.

        `tell` is called at once if that has happened already. A loss after the session was given back is not reported.
        """
        if self._lost is not None:
            tell(self._lost)
        elif not self._over.is_set():
            self._on_lost = tell

    def lose(self, why: EngineError) -> None:
        """Mark the right to write as lost, and report `why` through `on_lost`."""
        if self._lost is None:
            self._lost = why
            if self._on_lost is not None:
                self._on_lost(why)

    def require_not_lost(self) -> None:
        """Raise the caller's error if the right to write is lost."""
        if self._lost is not None:
            raise self._lost

    async def find_out_why(self) -> EngineError:
        """Look up why the store refuses this writer; returns the error for the caller."""
        try:
            return self.why_lost_to(await self._store.get(self.session.key))
        except SessionNotFound as gone:
            return gone
        except EngineError as problem:
            log.warning("what became of session %s is not known: %s", self.session.id, problem)
        return SessionTakenOver(self.session.id)

    def why_lost_to(self, now: Session) -> EngineError:
        """The error for the caller, from the session `now` that has this writer's id after the store refused it."""
        if now.created != self.session.created:  # another session of the same id
            return SessionDeleted(now.id, now.created)
        return SessionTakenOver(now.id)

    async def close(self, snapshot: Snapshot | None) -> Session:
        """Write the session's last state, start its time to live again, and give it back.

        Runs to completion even if the awaiting task is cancelled.

        Args:
            snapshot: the state; None: leave the session as last written

        Raises:
            SessionTakenOver: another call has it now.
            SessionNotFound: or SessionExpired, SessionDeleted: it expired or was erased meanwhile.
            StoreUnavailable, StoreFull: it could not be written.
        """
        return await self._end(lambda: self.session.renewed(utc_now()) if snapshot is None else self._grown(snapshot))

    @contextlib.asynccontextmanager
    async def given_back_on_error(self) -> AsyncIterator[None]:
        """Give the session back unchanged if the body, the beginning of a call, raises."""
        try:
            yield
        except BaseException:
            await self.give_back()
            raise

    async def give_back(self) -> None:
        """Give the session back unchanged, because its call could not begin; on an error the lease ends by itself."""
        try:
            await self.close(None)
        except EngineError as problem:
            log.warning("session %s was not given back: %s", self.session.id, problem)

    async def close_with(self, session: Session) -> Session:
        """Write this session and give it back; completion and errors as for `close`."""
        return await self._end(lambda: session)

    async def write(self, session: Session) -> None:
        """Write this session and keep the right to write; raises as `close`."""
        async with self._writing:
            try:
                await self._store.write(self.lease, session)
            except SessionTakenOver:
                raise await self.find_out_why() from None
            self.session = session

    async def ends_within(self, seconds: float) -> bool:
        """Wait up to `seconds` until the session was given back; returns whether it was."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _end(self, last: Callable[[], Session]) -> Session:
        """Write what `last` returns once no other write is in progress, and give the session back."""
        if not self._store.waits:  # it cannot be cancelled
            return await self._release(last)
        # In a separate task, because the call may be cancelled while it waits, and nothing else releases the session.
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
                self._on_lost = None  # breaks a cycle: it refers to the call, which refers to this writer
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
                # If the call is resumed elsewhere, the missing part is generated again.
                log.warning("session %s was not written on the way: %s", session.id, problem)


async def end_together(endings: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Give several sessions back concurrently. Runs to completion even if the awaiting task is cancelled.

    Args:
        endings: coroutines such as `SessionWriter.close`, each of another writer

    Raises:
        BaseException: the first error, in the order of `endings`, once all have ended.
    """
    for ended in await asyncio.shield(asyncio.gather(*endings, return_exceptions=True)):
        if isinstance(ended, BaseException):
            raise ended


def log_failure(closing: asyncio.Task[Any]) -> None:
    """Log that a session could not be written at the end of its call; for calls that have no caller left."""
    if not closing.cancelled() and closing.exception() is not None:
        log.warning("a session was not committed: %s", closing.exception())
