"""A run of `charloom classify train` as what can be exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from charloom.bundle import Labelling, LabelScores, Tokens
from charloom.export import ClassifierToExport
from charloom.lab.tasks.classifier_runs import load_classifier, load_test
from charloom.lab.tasks.predict import Judged, scores_of
from charloom.lab.tasks.streaming_form import streaming_form
from charloom.lab.tasks.symbols import MARKS, UNKNOWN

_PROVENANCE = ("config", "best", "texts", "torch", "python")
"""What the manifest takes over from the run."""


def classifier_to_export(run: Path) -> ClassifierToExport:
    """The classifier of a run, with the texts that it kept for the test.

    Raises:
        CheckpointError: there is none, it is damaged, or it reads in both directions.
    """
    trained = load_classifier(run)
    classifier = trained.classifier
    form = streaming_form(classifier)
    test = load_test(run, classifier)
    judged = classifier.judge(test)

    def network_tokens(tokens: Tokens) -> Tokens:
        return np.where(tokens == UNKNOWN, form.unknown_token or 0, tokens - MARKS)

    return ClassifierToExport(
        network=form.network,
        head=form.head,
        vocabulary=classifier.symbols.vocabulary,
        labelling=Labelling(
            labels=classifier.labels,
            max_length=classifier.max_length,
            unknown_token=form.unknown_token,
            test={"checkpoint": _scores(judged, classifier.temperature)},
        ),
        parameters=classifier.model.parameter_count(),
        facts={key: trained.facts[key] for key in _PROVENANCE if key in trained.facts},
        test=[(network_tokens(example.tokens), example.label) for example in test],
        scoring=_scored,
    )


def _scored(logits: npt.NDArray[np.float64], labels: Sequence[int]) -> LabelScores:
    return _scores(Judged(torch.from_numpy(logits), torch.tensor(labels)), 1.0)


def _scores(judged: Judged, temperature: float) -> LabelScores:
    found = scores_of(judged, temperature)
    return LabelScores(accuracy=found.accuracy, loss=found.loss, calibration_error=found.calibration_error)
