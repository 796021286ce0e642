"""How far a classifier's probabilities can be believed, and the temperature that makes them better.

Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks": logits divided by one number, fitted
on validation texts, keep every label as it is and bring confidence and accuracy together.

Axis letters: N texts, C labels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least cross-entropy on these texts, from `COLDEST` to `HOTTEST`.

    Where every label is right the least is at 0, which says that the model is never wrong; so few texts do not show
    that, and it is 1.

    Args:
        logits: [N, C]
        labels: [N], the right ones
    """
    if bool((logits.argmax(1) == labels).all()):
        return 1.0
    logits = logits.double()

    def loss(log_temperature: Tensor) -> float:
        return float(cross_entropy(logits / log_temperature.exp(), labels))

    # In 1/T the loss is convex, so that it has one minimum in log T, which thirds close in on.
    low, high = torch.tensor([COLDEST, HOTTEST], dtype=torch.float64).log()
    for _ in range(60):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if loss(first) < loss(second) else (first, high)
    return float(((low + high) / 2).exp())


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy in bins of confidence, by texts.

    Args:
        probabilities: [N, C]
        labels: [N], the right ones
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, right - confidence)
    return float(gaps.abs().sum() / len(labels))
