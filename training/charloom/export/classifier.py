"""From a trained classifier to a bundle.

Its network becomes decoders like any other: they read text and hand out the state. The output layer of a language model
is 0 there, and no step that only reads computes it. What makes labels of the state is a file beside them.

Axis letters: N texts, H hidden, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charloom.bundle import (
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    DecoderKind,
    Labelling,
    LabelScores,
    Manifest,
    Tokens,
    Vocabulary,
    file_entry,
    write_label_head,
    write_manifest,
    write_vocabulary,
)
from charloom.export.bundle_parts import cell_of, new_directory, write_decoder, write_weights
from charloom.export.errors import ExportError
from charloom.export.measure import final_hidden
from charloom.export.weights import decoder_weights
from charloom.network.model import CharLSTM

INT8_LABEL_LIMIT = 0.01
"""Most that int8 may cost on the texts of the test, in nats per text. A limit on accuracy would be one on chance where
these are few: one text of a hundred that is near the border is a whole point."""

Scoring = Callable[[npt.NDArray[np.float64], Sequence[int]], LabelScores]
"""From logits [N, C] and right labels [N] to how good they are."""


@dataclass(frozen=True)
class ClassifierToExport:
    """A classifier that reads forward, and how good it was."""

    network: CharLSTM
    """Its embedding and layers; the output layer is 0."""
    head: npt.NDArray[np.float32]
    """[H + 1, C], the biases last"""
    vocabulary: Vocabulary
    labelling: Labelling
    """With the scores of the network before the export as `checkpoint`."""
    parameters: int
    """Trained values."""
    facts: Mapping[str, Any]
    """What the run tells of itself."""
    test: Sequence[tuple[Tokens, int]]
    """The texts that were kept for the test, as tokens of the network, and the label of each"""
    scoring: Scoring
    """The same as for `checkpoint`."""


def export_classifier(
    trained: ClassifierToExport,
    target: Path,
    *,
    name: str,
    decoders: Collection[DecoderKind] = tuple(DecoderKind),
    include_weights: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write a bundle into the new directory `target`, its ONNX decoders measured on the texts of the test.

    Args:
        trained: the classifier
        target: directory to make; it must not exist or be empty
        name: name of the model in the bundle
        decoders: which forms to write
        include_weights: also write `weights.safetensors`
        tell: told one line per measurement

    Raises:
        ExportError: the directory is not empty, int8 costs more than `INT8_LABEL_LIMIT`, or the network is too large
            for ONNX.
    """
    with new_directory(target) as directory:
        network, vocabulary = trained.network, trained.vocabulary
        write_vocabulary(directory / VOCABULARY_FILE, vocabulary)
        write_label_head(directory, trained.head)
        weights_sha256 = write_weights(directory, network)
        manifest = Manifest(
            name=name,
            unit=vocabulary.unit,
            vocabulary_size=vocabulary.size,
            start_token=vocabulary.start_token,
            cell=cell_of(network, trained.parameters),
            weights_sha256=weights_sha256,
            files={},
            training=dict(trained.facts),
            labelling=trained.labelling,
        )
        test = dict(trained.labelling.test)
        reference = test["checkpoint"]
        tell(_line("checkpoint", reference))
        weights, kinds = decoder_weights(network), sorted(set(decoders), key=list(DecoderKind).index)
        for kind in kinds:
            write_decoder(kind, weights, directory / kind.file, weights_sha256)
        for kind in kinds:
            if kind is DecoderKind.TORCHSCRIPT:
                tell(f"{kind.value:12} written")
                continue
            test[kind.value] = found = _measured(trained, manifest, directory / kind.file)
            cost = found.loss - reference.loss
            tell(f"{_line(kind.value, found)}; {found.accuracy - reference.accuracy:+.4f}, {cost:+.5f} nats")
            if kind is DecoderKind.ONNX_INT8 and not cost <= INT8_LABEL_LIMIT:
                raise ExportError(
                    f"int8 costs {cost:.5f} nats per text on the texts of the test, more than the limit of "
                    f"{INT8_LABEL_LIMIT}; export without it: --decoders onnx-fp32,torchscript"
                )
        if not include_weights:
            (directory / WEIGHTS_FILE).unlink()
        return write_manifest(
            directory,
            manifest.model_copy(
                update={
                    "files": {file.name: file_entry(file) for file in sorted(directory.iterdir())},
                    "labelling": trained.labelling.model_copy(update={"test": test}),
                }
            ),
        )


def _measured(trained: ClassifierToExport, manifest: Manifest, decoder: Path) -> LabelScores:
    """How good the labels are with this decoder."""
    hidden = final_hidden(decoder, manifest, [tokens for tokens, _ in trained.test]).astype(np.float64)
    return trained.scoring(hidden @ trained.head[:-1] + trained.head[-1], [label for _, label in trained.test])


def _line(what: str, scores: LabelScores) -> str:
    return f"{what:12} accuracy {scores.accuracy:.4f}  loss {scores.loss:.4f} nats per text"
