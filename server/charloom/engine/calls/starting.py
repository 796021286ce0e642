"""Decides where a call starts, and what it still has to do.

A call starts from a session, from a sealed state, or from the zero state. A call that changes its session acquires it.
A call that broke off and is sent again, with the same `call_id`, starts where its session has stored what the call has
read and generated so far; only the rest is left to do.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from charloom.engine.calls.constraining import with_automaton
from charloom.engine.calls.requests import CheckedRequest, GenerationRequest, ReadingRequest, check
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    InvalidRequest,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StalePosition,
)
from charloom.engine.limits import Limits
from charloom.engine.loom.model import Model
from charloom.engine.loom.models import Models
from charloom.engine.model_errors import CallOfAnotherModel
from charloom.engine.sessions.checks import require_id, require_position
from charloom.engine.sessions.sealed_states import SealedStates
from charloom.engine.sessions.seeds import new_seed
from charloom.engine.sessions.session import Call, History, Key, Session
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.sessions.writer import SessionWriter
from charloom.engine.shares import current_share

NO_SESSION = "it needs a session_id; without session the position is 0"


@dataclass(frozen=True)
class GenerationStart:
    """Where a generation starts, and what it is to do."""

    model: Model
    snapshot: Snapshot
    request: GenerationRequest
    """The request as it was made."""
    checked: CheckedRequest
    """What is left to do from `snapshot` on."""
    writer: SessionWriter | None = None
    """Of the session that the call changes, if any; must be closed."""
    arrived: int = 0
    """The position up to which the caller has the text already."""


@dataclass(frozen=True)
class ReadingStart:
    """Where the reading of a text starts."""

    model: Model
    snapshot: Snapshot
    writer: SessionWriter | None = None
    """Of the session that the call changes, if any; must be closed."""


class Starting:
    """Decides where calls start.

    All methods may raise InvalidRequest, ModelNotFound, CallOfAnotherModel, SessionNotFound, SessionOfAnotherModel,
    StoreUnavailable and QuotaExceeded, as their names say; nothing has changed then.
    """

    def __init__(
        self,
        models: Models,
        sessions: Sessions,
        sealed: SealedStates,
        limits: Limits,
        calls: CallsInProgress,
        compiler: Compiler,
    ) -> None:
        self._calls = calls
        self._models = models
        self._sessions = sessions
        self._sealed = sealed
        self._limits = limits
        self._compiler = compiler

    async def generation(self, request: GenerationRequest) -> GenerationStart:
        """Start a generation that changes its session, if the request names one.

        Raises:
            SessionBusy, StalePosition, PositionNotKept, SealedState..., Overloaded, Draining: as their names say.
        """
        await self._calls.begin()
        if request.call_id:
            require_id("call_id", request.call_id)
        arrived = request.resume_position or 0
        if not request.session_id:
            if request.resume_position is not None and request.seed is None and not request.state:
                raise InvalidRequest(
                    "resume_position",
                    "without session and state the text is generated again, which needs the seed that it began with; "
                    "begin with a seed of your choice",
                )
            model, snapshot = self._without_session(request)
            checked = await self._check(request, model)
            _require_within(request, snapshot.position, checked)
            return GenerationStart(model, snapshot, request, checked, None, arrived)
        if request.resume_position is not None and not request.call_id:
            raise InvalidRequest("resume_position", "it needs the call_id of the call that it resumes")
        writer = await self._acquire(request, request)
        async with writer.given_back_on_error():
            session = writer.session
            model = self._sessions.model_of(session, request.model)
            checked = await self._check(request, model)
            if request.call_id and session.call is not None and session.call.id == request.call_id:
                rest = _resumed(session, session.call, request, checked, model)
            else:
                rest = _continued(session, request, checked, same_call=writer.lease.same_call)
            writer.begin_at(rest.snapshot, rest.history, rest.call, rest.checked.prompt.tolist())
        return GenerationStart(model, rest.snapshot, request, rest.checked, writer, arrived)

    async def preview(self, request: GenerationRequest) -> GenerationStart:
        """Start a generation that does not change its session; raises as `generation`, except SessionBusy."""
        await self._calls.begin()
        if request.new_session is not None:
            raise InvalidRequest("new_session", "only a generation that its session goes on with can make it")
        if not request.session_id:
            model, snapshot = self._without_session(request)
        else:
            _require_no_state(request.state)
            session = await self._sessions.get(Key(request.tenant, request.session_id))
            require_position(session, request.expected_position)
            model = self._sessions.model_of(session, request.model)
            snapshot = _seeded(session.snapshot, request.seed)
        return GenerationStart(model, snapshot, request, await self._check(request, model))

    async def conversation(self, request: GenerationRequest) -> GenerationStart:
        """Start a conversation, without anything to generate yet; raises as `generation`."""
        await self._calls.begin()
        nothing = replace(request, prompt="", max_tokens=1)
        if not request.session_id:
            model, snapshot = self._without_session(request)
            return GenerationStart(model, snapshot, request, check(nothing, self._limits, model.vocabulary))
        writer = await self._acquire(request, nothing)
        async with writer.given_back_on_error():
            require_position(writer.session, request.expected_position)
            model = self._sessions.model_of(writer.session, request.model)
            snapshot = _seeded(writer.session.snapshot, request.seed)
            writer.begin_at(snapshot, writer.session.history)
            checked = check(nothing, self._limits, model.vocabulary)
        return GenerationStart(model, snapshot, request, checked, writer)

    async def reading(self, request: ReadingRequest, *, write: bool = False) -> ReadingStart:
        """Start reading a text.

        Args:
            request: what to read
            write: whether the session, if the request names one, is changed

        Raises:
            SessionBusy: the session is to be changed, and another call is using it.
            StalePosition: as its name says.
        """
        await self._calls.begin()
        if request.key.id:
            _require_no_state(request.state)
        if request.state:
            return ReadingStart(*self._unsealed(request.state, request.key.tenant, request.model))
        if not request.key.id:
            if request.expected_position:
                raise InvalidRequest("expected_position", NO_SESSION)
            model = self._models.named(request.model, request.digest)
            return ReadingStart(model, model.fresh(0))
        if not write:
            session = await self._sessions.get(request.key)
            require_position(session, request.expected_position)
            return ReadingStart(self._sessions.model_of(session, request.model), session.snapshot)
        writer = await self._sessions.acquire(request.key)
        async with writer.given_back_on_error():
            require_position(writer.session, request.expected_position)
            return ReadingStart(self._sessions.model_of(writer.session, request.model), writer.present, writer)

    async def _acquire(self, request: GenerationRequest, begins_with: GenerationRequest) -> SessionWriter:
        """Acquire the session of a call, and make it first if the request says so.

        Args:
            request: the call
            begins_with: the request that is checked before a session is made
        """
        _require_no_state(request.state)
        key = Key(request.tenant, request.session_id)
        try:
            return await self._sessions.acquire(key, request.call_id)
        except (SessionExpired, SessionDeleted):
            raise
        except SessionNotFound:
            begins = request.resume_position is None and not request.expected_position
            if request.new_session is None or not begins:
                raise
        await self._check(begins_with, self._models.named(request.model, request.digest))
        with contextlib.suppress(SessionExists):  # another call was first
            await self._sessions.create(
                tenant=key.tenant,
                model=request.model,
                session_id=key.id,
                seed=request.seed,
                time_to_live=request.new_session.time_to_live,
                adaptive=request.new_session.adaptive,
            )
        return await self._sessions.acquire(key, request.call_id)

    def _without_session(self, request: GenerationRequest) -> tuple[Model, Snapshot]:
        """Start from the sealed state of a request, or from the zero state."""
        if request.new_session is not None:
            raise InvalidRequest("new_session", "it needs a session_id, of your choice")
        if not request.state:
            if request.expected_position:
                raise InvalidRequest("expected_position", NO_SESSION)
            model = self._model_named_in(request)
            return model, model.fresh(new_seed() if request.seed is None else request.seed)
        model, snapshot = self._unsealed(request.state, request.tenant, request.model)
        if request.expected_position not in (None, snapshot.position):
            raise InvalidRequest("expected_position", f"the state is at position {snapshot.position}")
        return model, _seeded(snapshot, request.seed)

    def _model_named_in(self, request: GenerationRequest) -> Model:
        """The model for a request without session and state; for a resumed call, the one that it began with."""
        if request.resume_position is None or not request.digest:
            return self._models.named(request.model, request.digest)
        began_with = self._models.with_digest(request.digest, adaptive=False)
        if began_with is None:
            raise CallOfAnotherModel(request.digest, self._models.named(request.model).digest)
        return self._models.named(request.model, began_with.digest)

    def _unsealed(self, state: bytes, tenant: str, name: str) -> tuple[Model, Snapshot]:
        """Unseal a state, which must belong to the model `name` if that is not empty."""
        model, snapshot, _ = self._sealed.unseal(state, tenant)
        if name and self._models.named(name).name != model.name:
            raise InvalidRequest("model", f"the state is one of {model.name!r}; leave the model out")
        return model, snapshot

    async def _check(self, request: GenerationRequest, model: Model) -> CheckedRequest:
        model.loom.admit(current_share())
        vocabulary, lacks = model.vocabulary, model.decoder.lacks
        checked = check(request, self._limits, vocabulary, lacks)
        return await with_automaton(checked, request, self._compiler, vocabulary, lacks)


class _Rest(NamedTuple):
    """What is left to do of a call, and where it starts."""

    snapshot: Snapshot
    history: History
    """Up to `snapshot`."""
    call: Call | None
    """For the session to remember, if the call can be resumed."""
    checked: CheckedRequest


def _continued(session: Session, request: GenerationRequest, checked: CheckedRequest, *, same_call: bool) -> _Rest:
    """The rest of a call of which the session has stored nothing yet: all of it, from the session's present state.

    Args:
        session: as it was acquired
        request: the call
        checked: the same in terms of tokens
        same_call: whether the session was taken over from the same call, which broke off before it wrote anything
    """
    arrived = request.resume_position
    if arrived is not None and not same_call:
        raise StalePosition(session.id, arrived, session.snapshot.position)
    if arrived is None:
        require_position(session, request.expected_position)
    snapshot = _seeded(session.snapshot, request.seed)
    if arrived is not None and arrived < snapshot.position:
        raise InvalidRequest("resume_position", f"the call began at position {snapshot.position}")
    _require_within(request, snapshot.position, checked)
    call = Call(request.call_id, snapshot.position, snapshot.seed) if request.call_id else None
    return _Rest(snapshot, session.history, call, checked)


def _resumed(session: Session, call: Call, request: GenerationRequest, checked: CheckedRequest, model: Model) -> _Rest:
    """The rest of a call that has written its session: from where the caller's text or the session's ends first."""
    arrived = call.start if request.resume_position is None else request.resume_position
    if arrived < call.start:
        raise InvalidRequest("resume_position", f"the call began at position {call.start}")
    begins = call.start + len(checked.prompt)
    if session.snapshot.position > begins + checked.max_tokens:
        raise InvalidRequest("call_id", "the call of this id had a larger max_tokens; give a new call a new id")
    _require_within(request, call.start, checked)
    session.history.until(call.start)  # raises if the call's tokens are no longer kept
    generated = session.history.between(begins, session.snapshot.position)
    # If nothing is left to generate, generate the last token again, to find out how the text ended.
    position = min(arrived, session.snapshot.position, begins + checked.most_of(generated) - 1)
    history = session.history.until(position)
    left = checked.after(history.between(call.start, position))
    return _Rest(history.present(call.seed, model.vocabulary), history, call, left)


def _require_within(request: GenerationRequest, start: int, checked: CheckedRequest) -> None:
    """Check that a call that began at `start` could have reached the position that its caller has."""
    most = start + len(checked.prompt) + checked.max_tokens
    if request.resume_position is not None and request.resume_position > most:
        raise InvalidRequest("resume_position", f"{request.resume_position} is too far: the call ends by {most}")


def _seeded(snapshot: Snapshot, seed: int | None) -> Snapshot:
    """The snapshot with the seed that a request names, if it names one."""
    return snapshot if seed is None else replace(snapshot, seed=seed)


def _require_no_state(state: bytes) -> None:
    if state:
        raise InvalidRequest("state", "a session has its own; leave one of the two out")
