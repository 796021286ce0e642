"""Between protobuf messages and the engine's values, both ways. The only module that knows both.

Knows: fields and their counterparts. Does not know: what is allowed (the engine does), calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from charloom.bundle import CharacterVocabulary, Unit, Vocabulary
from charloom.engine.calls.generation import GenerationResult
from charloom.engine.calls.inspection import InspectedToken
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import Limits
from charloom.engine.loom.jobs import FinishReason, TokenLogprob
from charloom.engine.loom.models import Model
from charloom.engine.sessions.session import Session
from charloom.v1 import generation_pb2, models_pb2, reading_pb2, sessions_pb2, text_pb2

_FINISH_REASONS = {
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.DRAINING: generation_pb2.FINISH_REASON_DRAINING,
}
_UNITS = {Unit.CHARACTER: models_pb2.UNIT_CHARACTER, Unit.BYTE: models_pb2.UNIT_BYTE, Unit.WORD: models_pb2.UNIT_WORD}


def to_request(options: generation_pb2.GenerationOptions, tenant: str) -> GenerationRequest:
    """The engine's request for some options.

    Raises:
        InvalidRequest: a value is out of range or an enum's value is unknown.
    """
    return GenerationRequest(
        model=options.model,
        session_id=options.session_id,
        prompt=options.prompt,
        tenant=tenant,
        state=options.state,
        return_state=options.return_state,
        skip_unknown=to_skip_unknown(options.unknown_characters),
        max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
        min_tokens=options.min_tokens,
        sampling=to_sampling(options.sampling),
        seed=options.seed if options.HasField("seed") else None,
        expected_position=options.expected_position if options.HasField("expected_position") else None,
        stop=tuple(options.stop),
        include_stop=options.include_stop,
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
        n=options.n if options.HasField("n") else 1,
    )


def to_skip_unknown(value: text_pb2.UnknownCharacters.ValueType) -> bool:
    """Whether characters that the model lacks are to be left out.

    Raises:
        InvalidRequest: the enum has no such value.
    """
    if value not in text_pb2.UnknownCharacters.values():
        raise InvalidRequest("unknown_characters", f"{value} is not a value of the enum")
    return value == text_pb2.UNKNOWN_CHARACTERS_SKIP


def to_sampling(sampling: generation_pb2.Sampling) -> Sampling:
    """The engine's sampling parameters.

    Raises:
        InvalidRequest: a value is out of range.
    """
    given = {field.name: value for field, value in sampling.ListFields()}
    if sampling.logit_bias:
        given["logit_bias"] = tuple((entry.characters, entry.bias) for entry in sampling.logit_bias)
    return Sampling(**given)


def _from_sampling(sampling: Sampling) -> generation_pb2.Sampling:
    given = asdict(sampling)
    given["logit_bias"] = [
        generation_pb2.LogitBias(characters=characters, bias=bias) for characters, bias in sampling.logit_bias
    ]
    return generation_pb2.Sampling(**given)


def from_logprobs(logprobs: Sequence[TokenLogprob], vocabulary: Vocabulary) -> list[text_pb2.TokenLogprob]:
    """The messages for log-probabilities of tokens."""
    return [
        text_pb2.TokenLogprob(
            chosen=_alternative(vocabulary, found.token, found.logprob),
            top=[_alternative(vocabulary, *other) for other in found.top],
        )
        for found in logprobs
    ]


def _alternative(vocabulary: Vocabulary, token: int, logprob: float) -> text_pb2.Alternative:
    return text_pb2.Alternative(symbol=vocabulary.symbol(token), logprob=logprob)


def from_inspected(
    found: InspectedToken, layers: Sequence[int], vocabulary: Vocabulary, *, distribution: bool
) -> reading_pb2.InspectResponse:
    """The message for what a token did in these layers."""
    return reading_pb2.InspectResponse(
        token=_alternative(vocabulary, found.token, found.logprob),
        position=found.position,
        layers=[
            reading_pb2.LayerActivations(
                layer=layer,
                input_gate=i,
                forget_gate=f,
                candidate=g,
                output_gate=o,
                cell=c,
                hidden=h,
            )
            for layer, (i, f, g, o), c, h in zip(
                layers, found.gates.tolist(), found.c.tolist(), found.h.tolist(), strict=True
            )
        ],
        next=[_alternative(vocabulary, *other) for other in found.next],
        distribution=found.distribution.tolist() if distribution else (),
    )


def from_result(result: GenerationResult) -> generation_pb2.GenerationResult:
    """The message for how a generation ended."""
    finish = result.finish
    message = generation_pb2.GenerationResult(
        finish_reason=_FINISH_REASONS[finish.reason],
        usage=generation_pb2.Usage(prompt_tokens=finish.fed, completion_tokens=finish.generated),
        timings=generation_pb2.Timings(
            queued=_from_seconds(finish.queued),
            first_token=_from_seconds(finish.first_token),
            total=_from_seconds(finish.total),
        ),
        seed=finish.snapshot.seed,
        sampling=_from_sampling(result.sampling),
        max_tokens=result.max_tokens,
        model=result.model,
        model_digest=result.model_digest,
        position=finish.snapshot.position,
        stop=result.stop or "",
        state=result.state,
    )
    if result.session is not None:
        message.session.CopyFrom(from_session(result.session))
    return message


def from_session(session: Session) -> sessions_pb2.Session:
    """The message for a session: no text, no state."""
    origin = session.origin
    return sessions_pb2.Session(
        id=session.id,
        model=session.model,
        model_digest=session.model_digest,
        position=session.snapshot.position,
        version=session.version,
        seed=session.snapshot.seed,
        create_time=from_time(session.created),
        update_time=from_time(session.updated),
        expire_time=from_time(session.expires),
        time_to_live=_from_seconds(session.time_to_live.total_seconds()),
        earliest_position=session.history.earliest,
        origin=sessions_pb2.Origin(session_id=origin.session_id, position=origin.position) if origin else None,
    )


class TimeToLive(Protocol):
    """A request with a time to live."""

    @property
    def time_to_live(self) -> Duration:
        """How long something is to be kept."""

    def HasField(self, name: Any, /) -> bool:
        """Whether it was set."""


def to_time_to_live(request: TimeToLive) -> timedelta | None:
    """The time to live that a request asks for.

    Raises:
        InvalidRequest: the duration is out of protobuf's own range.
    """
    if not request.HasField("time_to_live"):
        return None
    try:
        return request.time_to_live.ToTimedelta()
    except (ValueError, OverflowError) as problem:
        raise InvalidRequest("time_to_live", f"it is not a duration: {problem}") from problem


def from_model(model: Model, limits: Limits) -> models_pb2.Model:
    """The message for a model."""
    manifest, vocabulary = model.bundle.manifest, model.bundle.vocabulary
    holds, fails = models_pb2.BATCH_INVARIANCE_HOLDS, models_pb2.BATCH_INVARIANCE_FAILS
    return models_pb2.Model(
        name=model.name,
        digest=manifest.digest,
        unit=_UNITS[manifest.unit],
        vocabulary_size=manifest.vocabulary_size,
        symbols=vocabulary.symbols if isinstance(vocabulary, CharacterVocabulary) else (),
        cell=manifest.cell.kind.value,
        layers=manifest.cell.layers,
        hidden_size=manifest.cell.hidden_size,
        parameters=manifest.cell.parameters,
        decoder=model.decoder.kind,
        device=model.decoder.device,
        state_bytes=2 * 4 * manifest.cell.layers * manifest.cell.hidden_size,
        max_tokens=limits.max_tokens,
        max_prompt_characters=limits.max_prompt_characters,
        batch_invariance=holds if model.batch_invariant else fails,
        validation=[
            models_pb2.Validation(protocol=protocol, decoder=decoder, nats_per_token=loss)
            for protocol, losses in manifest.validation.items()
            for decoder, loss in losses.items()
        ],
    )


def from_time(time: datetime) -> Timestamp:
    """The message for a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _from_seconds(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
