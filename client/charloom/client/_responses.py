"""Protobuf to the SDK's own types. The only module that reads response messages."""

from __future__ import annotations

import struct
from datetime import timezone

from google.protobuf import wrappers_pb2

from charloom.client._types import (
    Completion,
    FinishReason,
    HealthStatus,
    ModelInfo,
    Result,
    Sampling,
    SessionInfo,
    Timings,
    Unit,
    Usage,
)
from charloom.v1 import generation_pb2, models_pb2, sessions_pb2

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_DRAINING: FinishReason.DRAINING,
}
_UNITS = {models_pb2.UNIT_CHARACTER: Unit.CHARACTER, models_pb2.UNIT_BYTE: Unit.BYTE}
_BATCH_INVARIANCE = {models_pb2.BATCH_INVARIANCE_HOLDS: True, models_pb2.BATCH_INVARIANCE_FAILS: False}
_HEALTH = {1: HealthStatus.SERVING, 2: HealthStatus.NOT_SERVING, 3: HealthStatus.SERVICE_UNKNOWN}


def completion(message: generation_pb2.CompleteResponse) -> Completion:
    """Read the answer of Complete."""
    return Completion(text=message.text, result=result(message.result))


def result(message: generation_pb2.GenerationResult) -> Result:
    """Read how a generation ended."""
    return Result(
        finish_reason=_FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        usage=Usage(prompt_tokens=message.usage.prompt_tokens, completion_tokens=message.usage.completion_tokens),
        timings=Timings(
            queued=message.timings.queued.ToNanoseconds() / 1e9,
            first_token=message.timings.first_token.ToNanoseconds() / 1e9,
            total=message.timings.total.ToNanoseconds() / 1e9,
        ),
        seed=message.seed,
        sampling=Sampling(
            temperature=_shortest(message.sampling.temperature),
            top_k=message.sampling.top_k,
            top_p=_shortest(message.sampling.top_p),
            min_p=_shortest(message.sampling.min_p),
        ),
        max_tokens=message.max_tokens,
        model=message.model,
        model_digest=message.model_digest,
        position=message.position,
        session=session_info(message.session) if message.HasField("session") else None,
    )


def session_info(message: sessions_pb2.Session) -> SessionInfo:
    """Read the description of a session."""
    return SessionInfo(
        id=message.id,
        model=message.model,
        model_digest=message.model_digest,
        position=message.position,
        version=message.version,
        seed=message.seed,
        create_time=message.create_time.ToDatetime(timezone.utc),
        update_time=message.update_time.ToDatetime(timezone.utc),
        expire_time=message.expire_time.ToDatetime(timezone.utc),
        time_to_live=message.time_to_live.ToNanoseconds() / 1e9,
    )


def model_info(message: models_pb2.Model) -> ModelInfo:
    """Read the description of a model."""
    validation: dict[str, dict[str, float]] = {}
    for loss in message.validation:
        validation.setdefault(loss.protocol, {})[loss.decoder] = loss.nats_per_token
    return ModelInfo(
        name=message.name,
        digest=message.digest,
        unit=_UNITS.get(message.unit, Unit.UNKNOWN),
        vocabulary_size=message.vocabulary_size,
        symbols=tuple(message.symbols),
        cell=message.cell,
        layers=message.layers,
        hidden_size=message.hidden_size,
        parameters=message.parameters,
        decoder=message.decoder,
        device=message.device,
        state_bytes=message.state_bytes,
        max_tokens=message.max_tokens,
        max_prompt_characters=message.max_prompt_characters,
        batch_invariance=_BATCH_INVARIANCE.get(message.batch_invariance),
        validation=validation,
    )


def health_status(data: bytes) -> HealthStatus:
    """Read a `grpc.health.v1.HealthCheckResponse`: a message whose field 1 is an enum.

    An Int32Value has the same bytes, which saves a dependency on the health stubs.
    """
    return _HEALTH.get(wrappers_pb2.Int32Value.FromString(data).value, HealthStatus.UNKNOWN)


def _shortest(value: float) -> float:
    """The number with the fewest digits that has this value in 32 bits: 0.8 comes back as 0.8."""
    for digits in range(6, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("f", candidate) == struct.pack("f", value):
            return candidate
    return value
