"""From the messages of models.proto, and of the health service, to values of the SDK."""

from __future__ import annotations

from datetime import timezone

from google.protobuf import wrappers_pb2

from charloom.client._classification_types import LabelScores
from charloom.client._model_types import HealthStatus, LoadedModel, ModelInfo, ModelState, ModelVersion, Task, Unit
from charloom.v1 import models_pb2

_UNITS = {
    models_pb2.UNIT_CHARACTER: Unit.CHARACTER,
    models_pb2.UNIT_BYTE: Unit.BYTE,
    models_pb2.UNIT_WORD: Unit.WORD,
}
_TASKS = {
    models_pb2.TASK_LANGUAGE_MODEL: Task.LANGUAGE_MODEL,
    models_pb2.TASK_CLASSIFICATION: Task.CLASSIFICATION,
}
_BATCH_INVARIANCE = {models_pb2.BATCH_INVARIANCE_HOLDS: True, models_pb2.BATCH_INVARIANCE_FAILS: False}
_MODEL_STATES = {
    models_pb2.MODEL_STATE_LOADING: ModelState.LOADING,
    models_pb2.MODEL_STATE_SERVING: ModelState.SERVING,
    models_pb2.MODEL_STATE_DRAINING: ModelState.DRAINING,
}
_HEALTH = {1: HealthStatus.SERVING, 2: HealthStatus.NOT_SERVING, 3: HealthStatus.SERVICE_UNKNOWN}


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
        adaptive_state_bytes=message.adaptive_state_bytes,
        max_tokens=message.max_tokens,
        max_prompt_characters=message.max_prompt_characters,
        batch_invariance=_BATCH_INVARIANCE.get(message.batch_invariance),
        validation=validation,
        task=_TASKS.get(message.task, Task.UNKNOWN),
        labels=tuple(message.labelling.labels),
        max_length=message.labelling.max_length if message.HasField("labelling") else None,
        label_scores={
            one.decoder: LabelScores(
                accuracy=one.accuracy, nats_per_text=one.nats_per_text, calibration_error=one.calibration_error
            )
            for one in message.labelling.scores
        },
    )


def model_version(message: models_pb2.ModelVersion) -> ModelVersion:
    """Read a version of a model."""
    draining = message.HasField("grace_end_time")
    return ModelVersion(
        name=message.name,
        version=message.version,
        digest=message.digest,
        state=_MODEL_STATES.get(message.state, ModelState.UNKNOWN),
        grace_end_time=message.grace_end_time.ToDatetime(timezone.utc) if draining else None,
        calls=message.calls,
    )


def loaded_model(message: models_pb2.LoadModelResponse | models_pb2.ReloadModelResponse) -> LoadedModel:
    """Read the result of a load."""
    return LoadedModel(version=model_version(message.version), changed=message.changed)


def health_status(data: bytes) -> HealthStatus:
    """Read a `grpc.health.v1.HealthCheckResponse`: a message whose field 1 is an enum.

    Parsed as an Int32Value, which has the same bytes, to save a dependency on the health stubs.
    """
    return _HEALTH.get(wrappers_pb2.Int32Value.FromString(data).value, HealthStatus.UNKNOWN)
