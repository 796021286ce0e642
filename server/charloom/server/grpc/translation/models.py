"""models.proto: what is told of a model."""

from __future__ import annotations

import math

from charloom.bundle import CharacterVocabulary, Unit
from charloom.engine.limits import Limits
from charloom.engine.loom.models import Model
from charloom.v1 import models_pb2

_UNITS = {Unit.CHARACTER: models_pb2.UNIT_CHARACTER, Unit.BYTE: models_pb2.UNIT_BYTE, Unit.WORD: models_pb2.UNIT_WORD}


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
    )
