"""The reference artifact that figures are stated for: 96 symbols, embedding 64, 2 x 512, with arbitrary weights.

    python -m benchmarks.reference DIRECTORY

writes its bundle with all three decoders. Speed does not depend on what a model has learned. Needs the training extra.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import torch

from charloom.bundle import (
    VOCABULARY_FILE,
    Cell,
    CharacterVocabulary,
    DecoderKind,
    Manifest,
    Unit,
    file_entry,
    write_manifest,
    write_vocabulary,
)
from charloom.export.onnx_graph import build_decoder
from charloom.export.torchscript import build_torchscript
from charloom.export.weights import DecoderWeights, decoder_weights
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM

SYMBOLS = sorted({*string.printable[:95], "\n"})
LAYERS, HIDDEN, EMBEDDING = 2, 512, 64
FINGERPRINT = "0" * 64
"""Stands for the hash of weights that are in no file."""


def reference_model() -> CharLSTM:
    """The network."""
    torch.manual_seed(0)
    config = ModelConfig(layers=LAYERS, hidden_size=HIDDEN, embedding_size=EMBEDDING, dropout=0.0)
    return CharLSTM(len(SYMBOLS), config).eval()


def reference_weights() -> DecoderWeights:
    """Its matrices."""
    return decoder_weights(reference_model())


def write_reference_bundle(directory: Path, *, torchscript: bool = False) -> Path:
    """A bundle of the reference artifact with both ONNX decoders, and with the one for GPUs if that is wanted."""
    directory.mkdir()
    model, vocabulary = reference_model(), CharacterVocabulary(SYMBOLS)
    write_vocabulary(directory / VOCABULARY_FILE, vocabulary)
    if torchscript:
        path = directory / DecoderKind.TORCHSCRIPT.file
        script = build_torchscript(decoder_weights(model))
        torch.jit.save(script, path, _extra_files={"weights_sha256": FINGERPRINT})
    for kind in (DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32):
        int8 = kind is DecoderKind.ONNX_INT8
        graph = build_decoder(decoder_weights(model), int8=int8, metadata={"weights_sha256": FINGERPRINT})
        (directory / kind.file).write_bytes(graph.SerializeToString())
    write_manifest(
        directory,
        Manifest(
            name="reference",
            unit=Unit.CHARACTER,
            vocabulary_size=vocabulary.size,
            start_token=vocabulary.start_token,
            cell=Cell(
                arrays=model.cell.arrays,
                gates=model.cell.gates,
                layers=LAYERS,
                hidden_size=HIDDEN,
                embedding_size=EMBEDDING,
                parameters=model.parameter_count(),
            ),
            weights_sha256=FINGERPRINT,
            files={file.name: file_entry(file) for file in directory.iterdir()},
        ),
    )
    return directory


if __name__ == "__main__":
    write_reference_bundle(Path(sys.argv[1]), torchscript=True)
