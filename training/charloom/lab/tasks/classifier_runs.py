"""The run directory of a classifier.

It holds `classifier.safetensors` (the best weights), `test.safetensors` (the texts kept for the test, as tokens, so
that evaluation needs nothing but the run), `vocabulary.json`, and for people `config.json` and `log.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.bundle import VOCABULARY_FILE, write_vocabulary
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.predict import Example, TextClassifier
from charloom.lab.tasks.symbols import Symbols
from charloom.training.checkpoint import Checkpoint, read_checkpoint, run_vocabulary, with_weights, write_checkpoint
from charloom.training.files import CheckpointError, replace_file
from charloom.training.run_directory import BEST_FILE, CLASSIFIER_FILE, CONFIG_FILE, LAST_FILE, LOG_FILE

TEST_FILE = "test.safetensors"


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier as a run left it, with what is known of it."""

    classifier: TextClassifier
    facts: dict[str, Any]


def save_start(run: Path, config: ClassificationConfig, classifier: TextClassifier, test: Sequence[Example]) -> None:
    """Write what does not change during training, and the log, which is empty then."""
    replace_file(run / LOG_FILE, b"")  # a run that never came to its first weights may have left one
    write_vocabulary(run / VOCABULARY_FILE, classifier.symbols.vocabulary)
    replace_file(run / CONFIG_FILE, config.model_dump_json(indent=2).encode() + b"\n")
    tensors = {
        "tokens": torch.from_numpy(np.concatenate([example.tokens for example in test])).int(),
        "lengths": torch.tensor([len(example.tokens) for example in test]),
        "labels": torch.tensor([example.label for example in test]),
    }
    write_checkpoint(run / TEST_FILE, Checkpoint(tensors, {"labels": classifier.labels}))


def save_classifier(run: Path, classifier: TextClassifier, facts: dict[str, Any]) -> None:
    """Write the weights, in one step; `facts` has the settings as `config`."""
    tensors = {f"model.{name}": tensor for name, tensor in classifier.model.state_dict().items()}
    own = {"labels": classifier.labels, "temperature": classifier.temperature}
    write_checkpoint(run / CLASSIFIER_FILE, Checkpoint(tensors, facts | own))


def load_classifier(run: Path) -> TrainedClassifier:
    """The classifier of a run directory, in evaluation mode.

    Raises:
        CheckpointError: there is none, or it or the vocabulary is damaged.
    """
    checkpoint = _read(run / CLASSIFIER_FILE)
    symbols = Symbols(run_vocabulary(run))
    try:
        config = ClassificationConfig.model_validate(checkpoint.facts["config"])
        labels = tuple(map(str, checkpoint.facts["labels"]))
        temperature = float(checkpoint.facts.get("temperature", 1.0))  # runs of 0.1 have none
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature}")
    except (KeyError, TypeError, ValueError) as problem:
        said = " ".join(str(problem).split())
        raise CheckpointError(f"{run / CLASSIFIER_FILE} has no usable settings ({said}); train again") from problem
    model = with_weights(
        lambda: Classifier(symbols.size, len(labels), config),
        checkpoint.group("model"),
        f"the weights in {run / CLASSIFIER_FILE}",
    )
    classifier = TextClassifier(model.eval(), symbols, labels, config.max_length, temperature)
    return TrainedClassifier(classifier, checkpoint.facts)


def load_test(run: Path, classifier: TextClassifier) -> list[Example]:
    """The texts that the run of a classifier kept for the test.

    Raises:
        CheckpointError: there are none, or they are damaged or not of this classifier.
    """
    tensors = _read(run / TEST_FILE).tensors
    try:
        for name, most in {"tokens": classifier.symbols.size, "labels": len(classifier.labels)}.items():
            if not all(0 <= int(value) < most for value in tensors[name].aminmax()):
                raise ValueError(f"{name} are not all below {most}")
        rows = torch.split(tensors["tokens"].long(), tensors["lengths"].tolist())
        return [Example(row.numpy(), label) for row, label in zip(rows, tensors["labels"].tolist(), strict=True)]
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        said = " ".join(str(problem).split())
        raise CheckpointError(f"{run / TEST_FILE} is damaged ({said}); train again") from problem


def _read(path: Path) -> Checkpoint:
    if not path.is_file():
        other = any((path.parent / file).is_file() for file in (BEST_FILE, LAST_FILE))
        what = f": {path.parent} is a run of `charloom train`" if other else ""
        raise CheckpointError(
            f"there is no {path}{what}; give the directory of a run that `charloom classify train` made"
        )
    try:
        return read_checkpoint(path)
    except CheckpointError as problem:
        raise CheckpointError(
            f"{path} is damaged or cut short ({problem.__cause__ or problem}); restore it from a copy, or train again"
        ) from problem
