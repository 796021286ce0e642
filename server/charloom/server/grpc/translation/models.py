"""models.proto: what is told of a model and its versions."""

from __future__ import annotations

import math
import time
from datetime import timedelta

from charloom.bundle import CharacterVocabulary, Labelling, Task, Unit
from charloom.engine.clock import utc_now
from charloom.engine.limits import Limits
from charloom.engine.loom.model import Model
from charloom.server.grpc.translation.times import from_time
from charloom.server.model_changes import Load
from charloom.v1 import models_pb2

_UNITS = {Unit.CHARACTER: models_pb2.UNIT_CHARACTER, Unit.BYTE: models_pb2.UNIT_BYTE, Unit.WORD: models_pb2.UNIT_WORD}
_TASKS = {
    Task.LANGUAGE_MODEL: models_pb2.TASK_LANGUAGE_MODEL,
    Task.CLASSIFICATION: models_pb2.TASK_CLASSIFICATION,
}


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
        state_bytes=4 * math.prod(model.decoder.shape[:3]),
        max_tokens=limits.max_tokens,
        max_prompt_characters=limits.max_prompt_characters,
        batch_invariance=holds if model.batch_invariant else fails,
        validation=[
            models_pb2.Validation(protocol=protocol, decoder=decoder, nats_per_token=loss)
            for protocol, losses in manifest.validation.items()
            for decoder, loss in losses.items()
        ],
        task=_TASKS[model.task],
        labelling=None if manifest.labelling is None else _labelling(manifest.labelling),
        adaptive_state_bytes=model.adaptive_state_bytes,
    )


def _labelling(labelling: Labelling) -> models_pb2.Labelling:
    scores = [
        models_pb2.LabelScores(
            decoder=decoder,
            accuracy=found.accuracy,
            nats_per_text=found.loss,
            calibration_error=found.calibration_error,
        )
        for decoder, found in labelling.test.items()
    ]
    return models_pb2.Labelling(labels=labelling.labels, max_length=labelling.max_length, scores=scores)


def from_version(model: Model) -> models_pb2.ModelVersion:
    """The message for a model as a version."""
    serving, draining = models_pb2.MODEL_STATE_SERVING, models_pb2.MODEL_STATE_DRAINING
    ends = model.grace_ends
    return models_pb2.ModelVersion(
        name=model.name,
        version=model.bundle.path.name,
        digest=model.digest,
        state=serving if ends is None else draining,
        grace_end_time=None if ends is None else from_time(utc_now() + timedelta(seconds=ends - time.monotonic())),
        calls=model.calls,
    )


def from_load(load: Load) -> models_pb2.ModelVersion:
    """The message for a version that is being loaded."""
    state = models_pb2.MODEL_STATE_LOADING
    return models_pb2.ModelVersion(name=load.name, version=load.version, digest=load.digest, state=state)
