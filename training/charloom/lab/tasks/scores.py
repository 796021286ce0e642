"""How good predictions are.

Axis letters: C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    Args:
        confusion: [C, C], texts by true label (rows) and predicted label (columns)
        loss: mean cross-entropy, nats per text
        calibration_error: how far confidence and accuracy are apart; see `calibration`
    """

    confusion: npt.NDArray[np.int64]
    loss: float
    calibration_error: float

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the texts whose label is right."""
        return float(np.trace(self.confusion) / self.texts)

    @property
    def majority(self) -> float:
        """Accuracy of always saying the most frequent label of these texts."""
        return float(self.confusion.sum(axis=1).max() / self.texts)

    @property
    def precision(self) -> list[float]:
        """Of the texts given a label, the share that has it; 0 where there is none."""
        return _ratios(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> list[float]:
        """Of the texts that have a label, the share given it; 0 where there is none."""
        return _ratios(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of precision and recall, by label."""
        return _ratios(2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def macro_f1(self) -> float:
        """Mean of `f1` over the labels, each counting the same however many texts it has."""
        return float(np.mean(self.f1))


def confusion_of(truth: Sequence[int], predicted: Sequence[int], labels: int) -> npt.NDArray[np.int64]:
    """Texts by true label and predicted label, [C, C]."""
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (np.asarray(truth, np.int64), np.asarray(predicted, np.int64)), 1)
    return counts


def edits(written: str, right: str) -> int:
    """Fewest characters to insert, delete or replace to make one text the other (Levenshtein's distance)."""
    characters = np.array([ord(character) for character in right], np.int64)
    places = np.arange(len(right) + 1)
    row = places
    for at, character in enumerate(written, 1):
        kept = np.minimum(row[1:] + 1, row[:-1] + (characters != ord(character)))
        row = np.minimum.accumulate(np.append(at, kept) - places) + places
    return int(row[-1])


def _ratios(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]) -> list[float]:
    return [int(part) / int(whole) if whole else 0.0 for part, whole in zip(parts, wholes, strict=True)]
