"""The engine: models, sessions, and the calls that bring them together.

Knows: requests, where each starts, who keeps what it leaves. Does not know: gRPC, settings, files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from charloom.bundle import Bundle
from charloom.engine.calls.conversation import Conversation
from charloom.engine.calls.generation import NO_SINK, Generation, GenerationResult, StateSink
from charloom.engine.calls.inspection import Inspections
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import CheckedRequest, GenerationRequest, check, within
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    InvalidRequest,
    SessionTakenOver,
    StalePosition,
)
from charloom.engine.limits import MOST_PEEKED, Limits
from charloom.engine.loom.jobs import Finish
from charloom.engine.loom.models import Model, Models
from charloom.engine.sessions.checks import require_id, require_position
from charloom.engine.sessions.sealing import Sealer, new_keys
from charloom.engine.sessions.session import Call, Key, Session
from charloom.engine.sessions.sessions import Sessions, new_seed, next_seed
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.store import Store
from charloom.engine.sessions.writer import SessionWriter


class Engine:
    """Serves some models; make it inside the event loop that will use it.

    Args:
        models: bundles with their opened decoders; the first is the default
        limits: what to accept
        store: where sessions are; in memory if not given
        sealer: makes tokens of states; with a key of its own if not given

    Raises:
        ValueError: there is no model, or two have the same name.
    """

    def __init__(
        self,
        models: Sequence[tuple[Bundle, Decoder]],
        limits: Limits | None = None,
        store: Store | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._models = Models(models, self.limits)
        store = store or MemoryStore(self.limits.max_sessions)
        self.sessions = Sessions(store, self._models, self.limits, sealer or Sealer(new_keys()))
        self.reading = Reading(self._models, self.sessions, self.limits)
        self.inspections = Inspections(self._models, self.sessions, self.limits)

    @property
    def models(self) -> list[Model]:
        """All models, the default one first."""
        return list(self._models)

    def model(self, name: str) -> Model:
        """The model of this name; empty for the default one.

        Raises:
            ModelNotFound: there is none.
        """
        return self._models.named(name)

    # Generating.

    async def generate(self, request: GenerationRequest) -> Generation:
        """Start generating one continuation; a session goes on with it.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, SessionBusy, StalePosition,
            PositionNotKept, SealedState..., StoreUnavailable, Overloaded, Draining: as their names say; nothing has
            changed then.
        """
        if request.call_id:
            require_id("call_id", request.call_id)
        if not request.session_id:
            model, start = self._stateless_start(request)
            return self.start(model, request, self._checked(request, model), start, arrived=request.resume_position)
        if request.resume_position is not None and not request.call_id:
            raise InvalidRequest("resume_position", "it needs the call_id of the call that it resumes")
        writer = await self._acquire(request)
        try:
            model = self.sessions.model_of(writer.session, request.model)
            checked = self._checked(request, model)
            start, checked = self._continued(writer, request, model, checked)
            generation = self.start(model, request, checked, start, writer, arrived=request.resume_position)
        except BaseException:
            await writer.give_back()
            raise
        writer.lost = lambda: generation.fail(SessionTakenOver(writer.session.id))
        writer.cancelled = lambda: generation.cancelled
        return generation

    async def continuations(self, request: GenerationRequest) -> list[Generation]:
        """Start generating `n` continuations of one state, which is read and not changed.

        Number i has the seed seed + i, and is the text that `generate` gives with that seed.

        Raises:
            as `generate`, but for SessionBusy.
        """
        if request.return_state:
            raise InvalidRequest("return_state", "it is for one continuation; leave n out")
        if request.resume_position is not None:
            raise InvalidRequest("resume_position", "only one continuation can be resumed; leave n out")
        model, start = await self._readable_start(request)
        return await self._several(model, request, self._checked(request, model), start)

    async def peek(self, request: GenerationRequest, top: int) -> Generation:
        """Start generating what `generate` would, with the distribution at each position; nothing changes.

        Args:
            request: as for `generate`
            top: how many tokens to tell at each position; 0 for all

        Raises:
            as `generate`, but for SessionBusy.
        """
        for field in ("n", "stop", "logprobs", "top_logprobs", "return_state"):
            if getattr(request, field) != getattr(_UNASKED, field):
                raise InvalidRequest(field, "it is not allowed here; leave it out")
        model, start = await self._readable_start(request)
        size = model.vocabulary.size
        within("top", top, 0, size)
        if request.max_tokens is None:
            request = replace(request, max_tokens=1)
        else:
            within("max_tokens", request.max_tokens, 1, MOST_PEEKED)
        return self.start(model, request, replace(self._checked(request, model), top_logprobs=top or size), start)

    async def converse(self, request: GenerationRequest) -> Conversation:
        """Begin a text that is steered while it is generated; a session goes on with it.

        Raises:
            as `generate`.
        """
        for field in ("n", "max_tokens", "min_tokens", "logprobs", "top_logprobs", "return_state", "state"):
            if getattr(request, field) != getattr(_UNASKED, field):
                raise InvalidRequest(field, "it is not allowed here; leave it out")
        if not request.session_id:
            model, start = self._stateless_start(request)
            conversation = Conversation(self, model, request, start, None)
        else:
            writer = await self._acquire(request)
            try:
                require_position(writer.session, request.expected_position)
                model = self.sessions.model_of(writer.session, request.model)
            except BaseException:
                await writer.give_back()
                raise
            start = writer.present if request.seed is None else replace(writer.present, seed=request.seed)
            writer.begin_at(start, writer.session.history)
            conversation = Conversation(self, model, request, start, writer)
        try:
            conversation.check()
            await conversation.inject(request.prompt)
        except BaseException:
            await conversation.end()
            raise
        return conversation

    # Operating.

    @property
    def working(self) -> bool:
        """Whether all looms have their workers."""
        return all(model.loom.working for model in self.models)

    def end_now(self) -> None:
        """Do not wait any longer for what is running; for use while draining."""
        for model in self.models:
            model.loom.end_now()
        self.inspections.end_now()

    async def drain(self, seconds: float) -> None:
        """Refuse new work, let running work end for up to `seconds`, then end it as DRAINING."""
        looms = (asyncio.to_thread(model.loom.drain, seconds) for model in self.models)
        await asyncio.gather(*looms, self.inspections.drain(seconds))
        await asyncio.sleep(0)  # the last deliveries were scheduled before the worker ended

    # Where a call starts.

    async def _acquire(self, request: GenerationRequest) -> SessionWriter:
        if request.state:
            raise InvalidRequest("state", "a session has its own; leave one of the two out")
        return await self.sessions.acquire(Key(request.tenant, request.session_id), request.call_id)

    def _stateless_start(self, request: GenerationRequest) -> tuple[Model, Snapshot]:
        """Where a request without session starts."""
        if not request.state:
            if request.expected_position:
                raise InvalidRequest("expected_position", "it needs a session_id; without session the position is 0")
            model = self._models.named(request.model)
            return model, model.fresh(new_seed() if request.seed is None else request.seed)
        model, state = self.sessions.unseal(request.state, request.tenant)
        start = state.snapshot
        if request.model and self._models.named(request.model) is not model:
            raise InvalidRequest("model", f"the state is one of {model.name!r}; leave the model out")
        if request.expected_position not in (None, start.position):
            raise InvalidRequest("expected_position", f"the state is at position {start.position}")
        return model, start if request.seed is None else replace(start, seed=request.seed)

    async def _readable_start(self, request: GenerationRequest) -> tuple[Model, Snapshot]:
        """Where a request starts that leaves its session as it is."""
        if not request.session_id:
            return self._stateless_start(request)
        if request.state:
            raise InvalidRequest("state", "a session has its own; leave one of the two out")
        session = await self.sessions.get(Key(request.tenant, request.session_id))
        require_position(session, request.expected_position)
        start = session.snapshot
        model = self.sessions.model_of(session, request.model)
        return model, start if request.seed is None else replace(start, seed=request.seed)

    def _continued(
        self, writer: SessionWriter, request: GenerationRequest, model: Model, checked: CheckedRequest
    ) -> tuple[Snapshot, CheckedRequest]:
        """Where a call goes on from, and what is left of it; the writer is told."""
        session, call_id = writer.session, request.call_id
        if call_id and session.call is not None and session.call.id == call_id:
            return self._resumed(writer, session.call, request, model, checked)
        arrived = request.resume_position
        if arrived is not None and not writer.lease.same_call:
            raise StalePosition(session.id, arrived, session.snapshot.position)
        if arrived is None:
            require_position(session, request.expected_position)
        start = session.snapshot if request.seed is None else replace(session.snapshot, seed=request.seed)
        if arrived is not None and arrived < start.position:
            raise InvalidRequest("resume_position", f"the call began at position {start.position}")
        call = Call(call_id, start.position, start.seed) if call_id else None
        writer.begin_at(start, session.history, call, checked.prompt.tolist())
        return start, checked

    def _resumed(
        self, writer: SessionWriter, call: Call, request: GenerationRequest, model: Model, checked: CheckedRequest
    ) -> tuple[Snapshot, CheckedRequest]:
        """Where a call goes on that has written its session before it broke off."""
        session = writer.session
        arrived = call.start if request.resume_position is None else request.resume_position
        if arrived < call.start:
            raise InvalidRequest("resume_position", f"the call began at position {call.start}")
        # Where nothing is left to generate, its last token is generated again, for the sake of how it ended.
        last = call.start + len(checked.prompt) + checked.max_tokens - 1
        if session.snapshot.position > last + 1:
            raise InvalidRequest("call_id", "the call of this id had a larger max_tokens; give a new call a new id")
        position = min(arrived, session.snapshot.position, last)
        history = session.history.until(position)
        history.until(call.start)  # what the call has read and generated must be known
        start = history.present(call.seed, model.vocabulary)
        left = checked.after(history.between(call.start, position))
        writer.begin_at(start, history, call, left.prompt.tolist())
        return start, left

    def _checked(self, request: GenerationRequest, model: Model) -> CheckedRequest:
        model.loom.admit()
        return check(request, self.limits, model.vocabulary)

    # On the loom.

    def start(
        self,
        model: Model,
        request: GenerationRequest,
        checked: CheckedRequest,
        start: Snapshot,
        sink: StateSink = NO_SINK,
        *,
        arrived: int | None = None,
        read: int | None = None,
    ) -> Generation:
        """Put a generation on the loom.

        Args:
            model: the model
            request: what was asked for
            checked: what of it is left to do
            start: from where
            sink: see `Generation`
            arrived: see `Generation`
            read: tokens of the prompt, where they have been read already
        """
        if len(checked.prompt):
            start = replace(start, tail=b"")  # a prompt begins a new character

        def describe(finish: Finish, session: Session | None) -> GenerationResult:
            fed = finish.fed if read is None else read
            before = len(checked.earlier) - checked.earlier_generated
            generated = finish.generated + checked.earlier_generated
            return GenerationResult(
                finish=replace(finish, fed=fed + before, generated=generated),
                sampling=checked.sampling,
                max_tokens=checked.max_tokens + checked.earlier_generated,
                model=model.name,
                model_digest=model.digest,
                session=session,
                stop=None if finish.stop is None else checked.stop[finish.stop],
                state=self.sessions.seal(model, finish.snapshot, request.tenant)[0] if request.return_state else b"",
            )

        generation = Generation(model.vocabulary, start.tail, sink, describe, arrived or 0)
        generation.attach(model.loom.submit(checked.job(start, snapshots=sink is not NO_SINK), generation.receive))
        return generation

    async def _several(
        self, model: Model, request: GenerationRequest, checked: CheckedRequest, start: Snapshot
    ) -> list[Generation]:
        read = len(checked.prompt)
        # The prompt is read once for all, unless they must know its tokens.
        if read and not checked.sampling.penalises:
            start, _ = await self.reading.read(model, checked.prompt, start)
            checked = replace(checked, prompt=checked.prompt[:0])
        generations: list[Generation] = []
        try:
            for number in range(request.n):
                own = replace(start, seed=next_seed(start.seed, number))
                generations.append(self.start(model, request, checked, own, read=read))
        except Exception:
            for generation in generations:
                generation.cancel()
            raise
        return generations


_UNASKED = GenerationRequest()
