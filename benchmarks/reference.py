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
    CharacterVocabulary,
    DecoderKind,
    Manifest,
    Unit,
    file_entry,
    write_manifest,
    write_vocabulary,
)
from charloom.export.bundle_parts import cell_of, write_decoder
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
    for kind in DecoderKind:
        if torchscript or kind is not DecoderKind.TORCHSCRIPT:
            write_decoder(kind, decoder_weights(model), directory / kind.file, FINGERPRINT)
    write_manifest(
        directory,
        Manifest(
            name="reference",
            unit=Unit.CHARACTER,
            vocabulary_size=vocabulary.size,
            start_token=vocabulary.start_token,
            cell=cell_of(model, model.parameter_count()),
            weights_sha256=FINGERPRINT,
            files={file.name: file_entry(file) for file in directory.iterdir()},
        ),
    )
    return directory


if __name__ == "__main__":
    write_reference_bundle(Path(sys.argv[1]), torchscript=True)
