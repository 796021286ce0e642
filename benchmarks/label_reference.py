"""The classifier of `benchmarks.classify`: one layer of 128 units, forward, over characters; random weights."""

from __future__ import annotations

import string
from pathlib import Path

import torch

from charloom.bundle import CharacterVocabulary, DecoderKind, Labelling, LabelScores
from charloom.export import ClassifierToExport, export_classifier
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.config import ClassifierConfig
from charloom.lab.tasks.predict import TextClassifier
from charloom.lab.tasks.streaming_form import streaming_form
from charloom.lab.tasks.symbols import Symbols

LABELS = ("chosen", "generated")
SYMBOLS = CharacterVocabulary(sorted(string.ascii_lowercase + string.digits + "-. "))
LONGEST = 2000


def reference_classifier() -> TextClassifier:
    """The network, and what it takes to use it."""
    torch.manual_seed(0)
    symbols = Symbols(SYMBOLS)
    model = Classifier(symbols.size, len(LABELS), ClassifierConfig(hidden_size=128)).eval()
    return TextClassifier(model, symbols, LABELS, LONGEST)


def write_label_bundle(directory: Path) -> Path:
    """Its bundle, with the int8 decoder."""
    classifier = reference_classifier()
    form = streaming_form(classifier)
    unmeasured = LabelScores(accuracy=0.0, loss=0.0, calibration_error=0.0)
    export_classifier(
        ClassifierToExport(
            network=form.network,
            head=form.head,
            vocabulary=SYMBOLS,
            labelling=Labelling(
                labels=LABELS, max_length=LONGEST, unknown_token=form.unknown_token, test={"checkpoint": unmeasured}
            ),
            parameters=classifier.model.parameter_count(),
            facts={},
            test=[(SYMBOLS.encode("a"), 0)],
            scoring=lambda logits, labels: unmeasured,  # random weights are right by chance
        ),
        directory,
        name="names",
        decoders=[DecoderKind.ONNX_INT8],
    )
    return directory
