"""Runs of classifiers as training leaves them, with random weights that tell texts apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from charloom.bundle import Bundle, DecoderKind, Unit, read_bundle, vocabulary_of
from charloom.cli.training.classifier_export import classifier_to_export
from charloom.export import export_classifier
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.classifier_runs import save_classifier, save_start
from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.folders import Text
from charloom.lab.tasks.predict import TextClassifier
from charloom.lab.tasks.symbols import Symbols

TEXTS = ["a good day", "the end of it", "no, no and no", "x", "every word is another", "what a day"]
LABELS = ("bad", "good", "neither")


def classifier_of(unit: Unit = Unit.CHARACTER, labels: tuple[str, ...] = LABELS, **settings: Any) -> TextClassifier:
    """A forward classifier of two layers; deterministic."""
    shape = {"hidden_size": 12, "embedding_size": 6, "layers": 2, "max_length": 40}
    config = ClassificationConfig.model_validate({"unit": unit, **shape, **settings})
    symbols = Symbols(vocabulary_of("\n".join(TEXTS), unit))
    torch.manual_seed(3)
    model = Classifier(symbols.size, len(labels), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.6 * torch.randn_like(parameter))
    return TextClassifier(model, symbols, labels, config.max_length, temperature=0.4)


def write_run(run: Path, classifier: TextClassifier, unit: Unit = Unit.CHARACTER, **settings: Any) -> Path:
    """Its run directory."""
    model = classifier.model
    shape = {
        "hidden_size": model.lstm.hidden_size,
        "embedding_size": model.lstm.input_size,
        "layers": model.lstm.num_layers,
        "bidirectional": model.lstm.bidirectional,
    }
    config = ClassificationConfig.model_validate(
        {"unit": unit, "max_length": classifier.max_length, **shape, **settings}
    )
    texts = [Text(text, number % len(classifier.labels)) for number, text in enumerate(TEXTS)]
    run.mkdir(parents=True, exist_ok=True)
    save_start(run, config, classifier, classifier.examples(texts))
    save_classifier(run, classifier, {"config": config.model_dump(mode="json")})
    return run


def classifier_bundle(
    folder: Path,
    unit: Unit = Unit.CHARACTER,
    name: str = "labels",
    decoders: Sequence[DecoderKind] = tuple(DecoderKind),
) -> Bundle:
    """A bundle of `classifier_of`, in a folder of its own below `folder`."""
    run = write_run(folder / f"{name}-run", classifier_of(unit), unit)
    export_classifier(classifier_to_export(run), folder / name, name=name, decoders=decoders)
    return read_bundle(folder / name)
