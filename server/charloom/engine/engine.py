"""The engine: models, sessions, and generations that bring them together.

Knows: validation, limits, asyncio. Does not know: gRPC, settings, files.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from charloom.bundle import Bundle, UnknownSymbolsError
from charloom.engine.decoder import Decoder
from charloom.engine.errors import InvalidRequest, ModelNotFound, SessionOfAnotherModel, StalePosition, shown
from charloom.engine.generation import Generation, GenerationResult
from charloom.engine.invariance import is_batch_invariant
from charloom.engine.jobs import Delivery, Finish, Job
from charloom.engine.loom import Loom
from charloom.engine.sampling import Sampling
from charloom.engine.session import Session, Snapshot
from charloom.engine.step_cost import StepCost
from charloom.engine.stores.memory import MemoryStore, utc_now

_SESSION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEED_BITS = 64
_CANCELLATION_ARRIVES, _CANCELLATION_ENDS = 0.02, 1.0
"""Seconds that a call waits for a session whose last call was, or is just being, cancelled."""


@dataclass(frozen=True)
class Limits:
    """What the engine accepts."""

    max_tokens: int = 65_536
    """Most tokens that one call may generate."""
    default_max_tokens: int = 256
    """What a call generates that does not say."""
    max_prompt_characters: int = 65_536
    """Longest prompt."""
    default_time_to_live: timedelta = timedelta(minutes=30)
    """How long a session is kept without use."""
    max_time_to_live: timedelta = timedelta(days=7)
    """The longest that a session may ask for."""
    max_sessions: int = 100_000
    """Most sessions that are kept."""
    workers: int = 1
    """Decoder calls at a time, per model: one per core on a CPU."""
    max_rows: int = 256
    """Most rows in one decoder call."""
    max_waiting: int = 1024
    """Most calls that wait for a row, per model."""
    tick_seconds: float = 0.005
    """How long a decoder call for one stream should take when there is work for longer."""


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate, and from where."""

    model: str = ""
    """Empty: the session's model, or the first one."""
    session_id: str = ""
    """Empty: from the zero state, and keep nothing."""
    prompt: str = ""
    skip_unknown: bool = False
    """Leave out characters that the model lacks, instead of refusing the prompt."""
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    """None: the session's own, or a new one."""
    expected_position: int | None = None
    """Refuse unless the session is there."""


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
            self._models[name] = Model(name, bundle, decoder, loom, is_batch_invariant(decoder))

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
        """Start generating.

        Raises:
            InvalidRequest, ModelNotFound, SessionNotFound, SessionOfAnotherModel, SessionBusy, StalePosition,
            Overloaded, Draining: as their names say; nothing has changed then.
        """
        max_tokens = self._checked_max_tokens(request.max_tokens)
        if not request.session_id:
            model = self.model(request.model)
            if request.expected_position:
                raise InvalidRequest("expected_position", "it needs a session_id; without session the position is 0")
            seed = secrets.randbits(_SEED_BITS) if request.seed is None else request.seed
            start = Snapshot.fresh(model.decoder.shape, model.bundle.manifest.start_token, seed)
            return self._start(model, request, max_tokens, start, lambda _: None)

        wanted = self.model(request.model) if request.model else None
        await self._let_a_cancelled_call_end(request.session_id)
        session = self.sessions.acquire(request.session_id)
        try:
            if wanted is not None and wanted.name != session.model:
                raise SessionOfAnotherModel(session.id, session.model, wanted.name)
            position = session.snapshot.position
            if request.expected_position is not None and request.expected_position != position:
                raise StalePosition(session.id, request.expected_position, position)
            start = session.snapshot
            if request.seed is not None:
                start = replace(start, seed=request.seed)
            generation = self._start(
                self.model(session.model),
                request,
                max_tokens,
                start,
                lambda snapshot: self._commit(session.id, snapshot),
            )
        except Exception:
            self.sessions.release(session.id, None)
            raise
        self._running[session.id] = generation
        return generation

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

    def _checked_max_tokens(self, asked: int | None) -> int:
        if asked is None:
            return min(self.limits.default_max_tokens, self.limits.max_tokens)
        if not 1 <= asked <= self.limits.max_tokens:
            raise InvalidRequest("max_tokens", f"{asked} is not allowed; from 1 to {self.limits.max_tokens}")
        return asked

    def _start(
        self,
        model: Model,
        request: GenerationRequest,
        max_tokens: int,
        start: Snapshot,
        commit: Callable[[Snapshot | None], Session | None],
    ) -> Generation:
        if len(request.prompt) > self.limits.max_prompt_characters:
            raise InvalidRequest(
                "prompt",
                f"it has {len(request.prompt)} characters, more than {self.limits.max_prompt_characters}; "
                "shorten it, or start the server with a higher --max-prompt-characters",
            )
        vocabulary = model.bundle.vocabulary
        try:
            prompt = vocabulary.encode(request.prompt, skip_unknown=request.skip_unknown)
        except UnknownSymbolsError as problem:
            raise InvalidRequest("prompt", f"{problem}; change them, or ask to skip them") from problem
        if len(prompt):
            start = replace(start, tail=b"")  # a prompt begins a new character

        def describe(finish: Finish, session: Session | None) -> GenerationResult:
            digest = model.bundle.manifest.digest
            return GenerationResult(finish, request.sampling, max_tokens, model.name, digest, session)

        generation = Generation(vocabulary.decoder(start.tail), commit, describe)
        job = Job(start, prompt, max_tokens, request.sampling, snapshots=bool(request.session_id))
        generation.attach(model.loom.submit(job, generation.receive))
        return generation

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for strand, chunk in deliveries:
        strand.receiver(chunk)
