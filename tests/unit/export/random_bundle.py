"""Bundles of random models: every decoder and the inspector, and nothing that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.bundle import (
    VOCABULARY_FILE,
    Bundle,
    Cell,
    CharacterVocabulary,
    DecoderKind,
    Manifest,
    Unit,
    file_entry,
    read_bundle,
    write_manifest,
    write_vocabulary,
)
from charloom.export.bundle_parts import write_decoder
from charloom.export.inspector import build_inspector
from charloom.export.weights import decoder_weights
from tests.unit.export.decoder_calls import random_model

SHA = "0123456789abcdef" * 4


def without_weights(directory: Path, **settings: Any) -> Bundle:
    """A bundle with all decoders and no weights."""
    directory.mkdir()
    vocabulary = CharacterVocabulary(sorted("\n abcdefghijklmno"))
    model = random_model(2, vocabulary=vocabulary.size, **settings)
    weights = decoder_weights(model)
    write_vocabulary(directory / VOCABULARY_FILE, vocabulary)
    for kind in DecoderKind:
        write_decoder(kind, weights, directory / kind.file, SHA)
    inspector = build_inspector(weights, int8=True, metadata={"weights_sha256": SHA})
    (directory / "inspector.onnx").write_bytes(inspector.SerializeToString())
    config = model.config
    manifest = Manifest(
        name="small",
        unit=Unit.CHARACTER,
        vocabulary_size=vocabulary.size,
        start_token=vocabulary.start_token,
        cell=Cell(
            kind=config.cell,
            arrays=weights.cell.arrays,
            gates=weights.cell.gates,
            layers=config.layers,
            hidden_size=config.hidden_size,
            embedding_size=config.embedding_size,
            parameters=model.parameter_count(),
        ),
        weights_sha256=SHA,
        files={file.name: file_entry(file) for file in directory.iterdir()},
        training={"config": config.model_dump(mode="json")},
        validation={"tail": {"checkpoint": 1.0, "onnx-int8": 1.1, "onnx-fp32": 1.0}},
    )
    write_manifest(directory, manifest)
    return read_bundle(directory)
