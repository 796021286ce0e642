"""Answers requests of the Open Inference Protocol: a sequence is a session, begun and ended by the request's flags."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from charloom.engine.call_end import at_end_of_call
from charloom.engine.calls.generation import Generation
from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError, ErrorKind, InvalidRequest, SessionExists, SessionNotFound, shown
from charloom.engine.loom.jobs import FinishReason
from charloom.engine.loom.model import Model
from charloom.engine.sessions.session import Key
from charloom.server.caller import current_caller
from charloom.server.identity.scopes import Scope
from charloom.server.inference.requests import (
    OUTPUTS,
    TEXT_INPUT,
    InferenceRequest,
    ParsedRequest,
    SequenceStep,
    parse_request,
)
from charloom.server.inference.tensors import Tensor, Value

log = logging.getLogger(__name__)

SESSION_PREFIX = "sequence-"
"""Of the ids of sessions that are sequences."""
PLATFORM = "charloom_lstm"
EXTENSIONS = ("sequence", "sequence(string_id)", "parameters")
READY, UNAVAILABLE = "READY", "UNAVAILABLE"
_WHOLE = frozenset({FinishReason.LENGTH.value, FinishReason.STOP.value})


class VersionNotFound(EngineError):
    """The model, or the model of a running sequence, is here, but not in this version."""

    kind = ErrorKind.NOT_FOUND
    reason = "VERSION_NOT_FOUND"

    def __init__(self, what: str, wanted: str, present: str) -> None:
        super().__init__(f"{what} in version {present!r}, not {shown(wanted)}; leave the version out")


class SequenceNotStarted(EngineError):
    """A request continues a sequence that does not exist."""

    kind = ErrorKind.INVALID
    reason = "SEQUENCE_NOT_STARTED"

    def __init__(self, sequence: str) -> None:
        super().__init__(
            f"sequence {shown(sequence)} is not running: it has ended, or its first request lacked the START flag "
            "(sequence_start)"
        )


@dataclass(frozen=True)
class Piece:
    """A part of an answer."""

    model: Model
    text: str
    position: int
    """Position of the sequence, or of the text, after this piece."""
    finish: str
    """Why the text ended; empty where more is to come."""
    outputs: tuple[str, ...]
    """Which outputs are wanted."""

    @property
    def final(self) -> bool:
        """Whether it is the last one."""
        return bool(self.finish)

    @property
    def whole(self) -> bool:
        """Whether it is the last piece and the text is complete: a server that stops may cut a text short."""
        return self.finish in _WHOLE

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs."""
        values: dict[str, Value] = {
            "text_output": self.text.encode(),
            "finish_reason": self.finish.encode(),
            "position": self.position,
        }
        return [Tensor(name, OUTPUTS[name], (1,), (values[name],)) for name in self.outputs]


@dataclass(frozen=True)
class Listed:
    """A model in the repository index."""

    name: str
    version: str
    state: str
    reason: str
    """Why it is not ready; empty where it is."""


class Inference:
    """Answers for all transports.

    Args:
        engine: has the models, and generates
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def ready(self) -> bool:
        """Whether calls are taken."""
        return self.engine.working and not self.engine.draining.is_set()

    def model(self, name: str, version: str) -> Model:
        """The model of a name and, unless it is empty, a version.

        Raises:
            ModelNotFound, VersionNotFound: there is none.
        """
        model = self.engine.model(name)
        if version not in ("", version_of(model)):
            raise VersionNotFound(f"model {model.name!r} is here", version, version_of(model))
        return model

    def model_ready(self, model: Model) -> bool:
        """Whether calls of a model are taken."""
        return self.ready and model.loom.working

    def index(self, *, ready: bool) -> list[Listed]:
        """The models, and unless only those that are `ready` are wanted, those that are about to go."""
        models = [Listed(model.name, version_of(model), READY, "") for model in self.engine.models]
        reason = "it was replaced or unloaded; its sequences may still end"
        going = () if ready else self.engine.draining_models
        return models + [Listed(model.name, version_of(model), UNAVAILABLE, reason) for model in going]

    async def whole(self, request: InferenceRequest) -> Piece:
        """The whole text; arguments and errors as of `pieces`."""
        parsed = self._parsed(request)
        (piece,) = [piece async for piece in self._pieces(replace(parsed, pieces=False), request.version)]
        return piece

    async def pieces(self, request: InferenceRequest) -> AsyncIterator[Piece]:
        """The text as it is generated; the last piece is `final`. It ends with the call at the latest.

        Raises:
            InvalidRequest, VersionNotFound, SequenceNotStarted: as their names say.
            ScopeMissing: it begins or ends a sequence, which makes or deletes a session; the caller may not.
            and as `Generating.generate`.
        """
        async for piece in self._pieces(self._parsed(request), request.version):
            yield piece

    def _parsed(self, request: InferenceRequest) -> ParsedRequest:
        if not request.model:
            raise InvalidRequest("model_name", "it is empty; name one of the models that RepositoryIndex lists")
        caller = current_caller()
        parsed = parse_request(request, caller.tenant)
        if parsed.sequence is not None and (parsed.sequence.start or parsed.sequence.end):
            caller.require(Scope.SESSIONS)
        if parsed.sequence is not None and not parsed.sequence.start:
            return parsed  # its session has a model, which may have been replaced meanwhile
        model = self.model(request.model, request.version).used()
        return replace(parsed, generation=replace(parsed.generation, digest=model.digest))

    async def _pieces(self, parsed: ParsedRequest, version: str) -> AsyncIterator[Piece]:
        sequence, wanted = parsed.sequence, parsed.generation
        try:
            if sequence is not None:
                key = Key(wanted.tenant, f"{SESSION_PREFIX}{sequence.id}")
                if sequence.start:
                    # What is refused begins nothing, and ends no sequence that runs.
                    await self.engine.generating.check(wanted)
                    await self._start(key, wanted.model, sequence)
                elif version:
                    await self._require_version(key, wanted.model, sequence, version)
                wanted = replace(wanted, session_id=key.id)
            generation = await self.engine.generating.generate(wanted)
        except SessionNotFound:
            raise SequenceNotStarted("" if sequence is None else sequence.id) from None
        at_end_of_call(generation.cancel)
        async for piece in _told(generation, parsed):
            if piece.whole and sequence is not None and sequence.end:
                await self.engine.sessions.delete(key)
            yield piece

    async def _require_version(self, key: Key, name: str, sequence: SequenceStep, version: str) -> None:
        sessions = self.engine.sessions
        model = sessions.model_of(await sessions.get(key), name)
        if version != version_of(model):
            what = f"sequence {shown(sequence.id)} of model {model.name!r} goes on"
            raise VersionNotFound(what, version, version_of(model))

    async def _start(self, key: Key, model: str, sequence: SequenceStep) -> None:
        """Begin a sequence; one that runs is begun anew, as Triton does it."""
        try:
            await self.engine.sessions.create(tenant=key.tenant, model=model, session_id=key.id)
        except SessionExists:
            log.debug("sequence %s is started again before its end", shown(sequence.id))
            await self.engine.sessions.delete(key)
            await self.engine.sessions.create(tenant=key.tenant, model=model, session_id=key.id)


async def _told(generation: Generation, parsed: ParsedRequest) -> AsyncIterator[Piece]:
    """The pieces of a generation, up to the final one; there is none where the client has gone."""
    if not parsed.pieces:
        delta = await generation.whole()
        yield _piece(generation, delta.text, delta.position, parsed)
        return
    async for delta in generation:
        yield _piece(generation, delta.text, delta.position, parsed)
        if generation.result is not None:
            return
    if generation.result is not None:
        yield _piece(generation, "", 0, parsed)


def _piece(generation: Generation, text: str, position: int, parsed: ParsedRequest) -> Piece:
    result = generation.result
    finish = "" if result is None else result.finish.reason.value
    if result is not None:
        position = result.finish.snapshot.position
    return Piece(generation.model, text, position, finish, tuple(parsed.outputs))


def version_of(model: Model) -> str:
    """The version of a model, as clients name it: the beginning of its digest."""
    return model.digest[:12]


def inputs_of() -> list[Tensor]:
    """The inputs of a model, as tensors without values."""
    return [Tensor(TEXT_INPUT, "BYTES", (1,), ())]


def outputs_of() -> list[Tensor]:
    """The outputs of a model, as tensors without values."""
    return [Tensor(name, datatype, (1,), ()) for name, datatype in OUTPUTS.items()]
