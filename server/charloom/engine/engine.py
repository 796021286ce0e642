"""The engine: models, sessions, and generations that bring them together.

Knows: validation, limits, asyncio. Does not know: gRPC, settings, files.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from charloom.bundle import Bundle
from charloom.engine.decoder import Decoder
from charloom.engine.errors import (
    DecoderFailure,
    Draining,
    InvalidRequest,
    ModelNotFound,
    SessionOfAnotherModel,
    StalePosition,
    shown,
)
from charloom.engine.generation import Generation, GenerationResult
from charloom.engine.invariance import is_batch_invariant
from charloom.engine.jobs import Chunk, Finish, FinishReason
from charloom.engine.loom import Loom
from charloom.engine.requests import CheckedRequest, GenerationRequest, Limits, check
from charloom.engine.session import Session, Snapshot
from charloom.engine.step_cost import StepCost
from charloom.engine.stores.memory import MemoryStore, utc_now
from charloom.engine.strand import Delivery

_SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEED_BITS = 64
_CANCELLATION_ARRIVES, _CANCELLATION_ENDS = 0.02, 1.0
"""Seconds that a call waits for a session whose last call was, or is just being, cancelled."""


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    name: str
    bundle: Bundle
    decoder: Decoder
    loom: Loom
    batch_invariant: bool


class Engine:
    """Serves some models; make it inside the event loop that will use it.

    Args:
        models: bundles with their opened decoders; the first is the default
        limits: what to accept

    Raises:
        ValueError: there is no model, or two have the same name.
    """

    def __init__(self, models: Sequence[tuple[Bundle, Decoder]], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.sessions = MemoryStore(self.limits.max_sessions)
        self._event_loop = asyncio.get_running_loop()
        self._models: dict[str, Model] = {}
        self._running: dict[str, Generation] = {}
        if not models:
            raise ValueError("an engine needs at least one model")
        paths: dict[str, Path] = {}
        for bundle, _ in models:
            name = bundle.manifest.name
            if name in paths:
                raise ValueError(
                    f"two bundles are named {name!r}: {paths[name]} and {bundle.path}; export one with another --name"
                )
            paths[name] = bundle.path
        for bundle, decoder in models:
            name = bundle.manifest.name
            loom = Loom(
                decoder,
                self._deliver,
                cost=StepCost.measured(decoder),
                workers=self.limits.workers,
                tick_seconds=self.limits.tick_seconds,
                max_rows=self.limits.max_rows,
                max_waiting=self.limits.max_waiting,
            )
            self._models[name] = Model(name, bundle, decoder, loom, is_batch_invariant(decoder, self.limits.max_rows))

    @property
    def models(self) -> list[Model]:
        """All models, the default one first."""
        return list(self._models.values())

    def model(self, name: str) -> Model:
        """The model of this name; empty for the default one.

        Raises:
            ModelNotFound: there is none.
        """
        if not name:
            return next(iter(self._models.values()))
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound(name, list(self._models)) from None

    def create_session(
        self, *, model: str = "", session_id: str = "", seed: int | None = None, time_to_live: timedelta | None = None
    ) -> Session:
        """Make a session with zero state.

        Raises:
            InvalidRequest: the id or the time to live is malformed.
            ModelNotFound: there is no such model.
            SessionExists: the id is in use.
            Overloaded: no more sessions are kept.
        """
        chosen = self.model(model)
        if session_id and not _SESSION_ID.fullmatch(session_id):
            raise InvalidRequest(
                "session_id", f"{shown(session_id)} is not allowed; use up to 64 letters, digits, '.', '_' and '-'"
            )
        time_to_live = self.limits.default_time_to_live if time_to_live is None else time_to_live
        if not timedelta(0) < time_to_live <= self.limits.max_time_to_live:
            longest = self.limits.max_time_to_live.total_seconds()
            raise InvalidRequest(
                "time_to_live", f"{time_to_live.total_seconds():g} s is not allowed; above 0 and up to {longest:g} s"
            )
        manifest, now = chosen.bundle.manifest, utc_now()
        session = Session(
            id=session_id or secrets.token_urlsafe(16),
            model=chosen.name,
            model_digest=manifest.digest,
            snapshot=Snapshot.fresh(
                chosen.decoder.shape,
                manifest.start_token,
                secrets.randbits(_SEED_BITS) if seed is None else seed,
            ),
            version=0,
            created=now,
            updated=now,
            time_to_live=time_to_live,
            expires=now + time_to_live,
        )
        self.sessions.add(session)
        return session

    async def get_session(self, session_id: str) -> Session:
        """The session as it is, after a cancelled call has ended.

        Raises:
            SessionNotFound: there is none.
        """
        await self._let_a_cancelled_call_end(session_id)
        return self.sessions.get(session_id)

    async def delete_session(self, session_id: str) -> Session:
        """Forget a session and its state; returns what it was.

        Raises:
            SessionNotFound: there is none.
            SessionBusy: a call is using it.
        """
        await self._let_a_cancelled_call_end(session_id)
        return self.sessions.delete(session_id)

    async def generate(self, request: GenerationRequest) -> Generation:
        """Start generating one continuation; a session goes on with it.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, SessionBusy, StalePosition,
            Overloaded, Draining: as their names say; nothing has changed then.
        """
        if not request.session_id:
            model, start = self._fresh_start(request)
            return self._start(model, self._checked(request, model), start, lambda _: None, keep=False)
        await self._let_a_cancelled_call_end(request.session_id)
        session = self.sessions.acquire(request.session_id)
        try:
            model, start = self._start_of(session, request)
            generation = self._start(
                model,
                self._checked(request, model),
                start,
                lambda snapshot: self._commit(session.id, snapshot),
                keep=True,
            )
        except Exception:
            self.sessions.release(session.id, None)
            raise
        self._running[session.id] = generation
        return generation

    async def continuations(self, request: GenerationRequest) -> list[Generation]:
        """Start generating `n` continuations of one state, which is read and not changed.

        Number i has the seed seed + i, and is the text that `generate` gives with that seed.

        Raises:
            as `generate`, but for SessionBusy.
        """
        if request.session_id:
            model, start = self._start_of(await self.get_session(request.session_id), request)
        else:
            model, start = self._fresh_start(request)
        checked = self._checked(request, model)
        read = len(checked.prompt)
        # The prompt is read once for all, unless they must know its tokens.
        if read and not checked.sampling.penalises:
            start = await self._after_feeding(model, checked, start)
            checked = replace(checked, prompt=checked.prompt[:0])
        generations: list[Generation] = []
        try:
            for number in range(request.n):
                own = replace(start, seed=(start.seed + number) % 2**_SEED_BITS)
                generations.append(self._start(model, checked, own, lambda _: None, keep=False, read=read))
        except Exception:
            for generation in generations:
                generation.cancel()
            raise
        return generations

    @property
    def working(self) -> bool:
        """Whether all looms have their workers."""
        return all(model.loom.working for model in self._models.values())

    def cut(self) -> None:
        """Do not wait any longer for running generations; for use while draining."""
        for model in self._models.values():
            model.loom.cut()

    async def drain(self, seconds: float) -> None:
        """Refuse new work, let running generations end for up to `seconds`, then end them as DRAINING."""
        await asyncio.gather(*(asyncio.to_thread(model.loom.drain, seconds) for model in self._models.values()))
        await asyncio.sleep(0)  # the last deliveries were scheduled before the worker ended

    async def _let_a_cancelled_call_end(self, session_id: str) -> None:
        """A call that its client gave up holds its session until the next tick; a call that follows should not fail.

        The news of the cancellation may also arrive a moment after the call that follows.
        """
        running = self._running.get(session_id)
        if running is not None and not await running.settles_within(_CANCELLATION_ARRIVES) and running.cancelled:
            await running.settles_within(_CANCELLATION_ENDS)

    def _commit(self, session_id: str, snapshot: Snapshot | None) -> Session:
        self._running.pop(session_id, None)
        return self.sessions.release(session_id, snapshot)

    def _fresh_start(self, request: GenerationRequest) -> tuple[Model, Snapshot]:
        """Where a request without session starts."""
        model = self.model(request.model)
        if request.expected_position:
            raise InvalidRequest("expected_position", "it needs a session_id; without session the position is 0")
        seed = secrets.randbits(_SEED_BITS) if request.seed is None else request.seed
        return model, Snapshot.fresh(model.decoder.shape, model.bundle.manifest.start_token, seed)

    def _start_of(self, session: Session, request: GenerationRequest) -> tuple[Model, Snapshot]:
        """Where a request with a session starts."""
        if request.model and self.model(request.model).name != session.model:
            raise SessionOfAnotherModel(session.id, session.model, request.model)
        start = session.snapshot
        if request.expected_position is not None and request.expected_position != start.position:
            raise StalePosition(session.id, request.expected_position, start.position)
        return self.model(session.model), start if request.seed is None else replace(start, seed=request.seed)

    def _checked(self, request: GenerationRequest, model: Model) -> CheckedRequest:
        model.loom.admit()
        return check(request, self.limits, model.bundle.vocabulary)

    def _start(
        self,
        model: Model,
        request: CheckedRequest,
        start: Snapshot,
        commit: Callable[[Snapshot | None], Session | None],
        *,
        keep: bool,
        read: int | None = None,
    ) -> Generation:
        """Put a generation on the loom.

        Args:
            model: the model
            request: what to generate
            start: from where
            commit: see `Generation`
            keep: whether its states matter
            read: tokens of the prompt, where they have been read already
        """
        if len(request.prompt):
            start = replace(start, tail=b"")  # a prompt begins a new character

        def describe(finish: Finish, session: Session | None) -> GenerationResult:
            return GenerationResult(
                finish=finish if read is None else replace(finish, fed=read),
                sampling=request.sampling,
                max_tokens=request.max_tokens,
                model=model.name,
                model_digest=model.bundle.manifest.digest,
                session=session,
                stop=None if finish.stop is None else request.stop[finish.stop],
            )

        generation = Generation(model.bundle.vocabulary, start.tail, commit, describe)
        generation.attach(model.loom.submit(request.job(start, snapshots=keep), generation.receive))
        return generation

    async def _after_feeding(self, model: Model, request: CheckedRequest, start: Snapshot) -> Snapshot:
        """The state after the prompt."""
        fed: asyncio.Future[Finish] = self._event_loop.create_future()

        def receive(chunk: Chunk) -> None:
            if chunk.finish and not fed.done():
                fed.set_result(chunk.finish)

        strand = model.loom.submit(replace(request, max_tokens=0, stops=None).job(start, snapshots=True), receive)
        try:
            finish = await fed
        except asyncio.CancelledError:
            strand.cancel()
            raise
        if finish.reason is FinishReason.DRAINING:
            raise Draining
        if finish.reason is not FinishReason.LENGTH:
            raise DecoderFailure("the decoder failed while it read the prompt; nothing has changed")
        return replace(finish.snapshot, tail=b"")

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for strand, chunk in deliveries:
        strand.receiver(chunk)
