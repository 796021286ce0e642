"""Training in NumPy: clipping, SGD, Adam, an epoch after the other, and the curves.

Knows: parameters and gradients by name, and a model that gives both. Does not know: the equations.

All losses are nats per token: sums over tokens divided by their number, whatever the lengths of the sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from charloom.lab.reference.numpy_language_model import LanguageModel, Tokens
from charloom.lab.reference.numpy_lstm import Parameters


def clip(gradients: Parameters, limit: float) -> float:
    """Scale all gradients in place so that the norm of all together is at most `limit`; returns the norm before.

    Pascanu, Mikolov and Bengio (2013): the direction stays.
    """
    norm = math.sqrt(sum(float(np.square(gradient).sum()) for gradient in gradients.values()))
    if norm > limit:
        for gradient in gradients.values():
            gradient *= limit / norm
    return norm


class Optimiser(Protocol):
    """What changes parameters by their gradients."""

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        """Change the parameters in place."""


@dataclass
class SGD:
    """Steepest descent."""

    learning_rate: float

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        for name, gradient in gradients.items():
            parameters[name] -= self.learning_rate * gradient


@dataclass
class Adam:
    """Kingma and Ba (2015)."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    steps: int = 0
    mean: Parameters = field(default_factory=dict)
    """of the gradients so far, decaying"""
    square: Parameters = field(default_factory=dict)
    """of the squared gradients so far, decaying"""

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        self.steps += 1
        for name, gradient in gradients.items():
            mean = self.mean.setdefault(name, np.zeros_like(gradient))
            square = self.square.setdefault(name, np.zeros_like(gradient))
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient**2 - square)
            corrected = np.sqrt(square / (1 - self.beta2**self.steps)) + self.epsilon
            parameters[name] -= self.learning_rate * mean / (1 - self.beta1**self.steps) / corrected


@dataclass
class Curves:
    """What `train` saw, in nats per token."""

    training: list[float] = field(default_factory=list)
    """one figure per epoch, the mean while it was going on"""
    validation: list[float] = field(default_factory=list)
    """before each epoch, and after the last: one figure more"""
    norms: list[float] = field(default_factory=list)
    """of each step's gradients, before clipping"""


def validate(model: LanguageModel, validation: Sequence[Tokens]) -> float:
    """Mean loss per token over all sequences."""
    return sum(model.loss(sequence) for sequence in validation) / _targets(validation)


def train(
    model: LanguageModel,
    training: Sequence[Tokens],
    validation: Sequence[Tokens],
    optimiser: Optimiser,
    epochs: int,
    *,
    clip_norm: float = 1.0,
    random: np.random.Generator | None = None,
) -> Curves:
    """One step per sequence, by the gradient of its mean loss per token; in a new order each epoch with `random`."""
    curves = Curves()
    parameters = model.parameters
    for _ in range(epochs):
        curves.validation.append(validate(model, validation))
        total = 0.0
        order = np.arange(len(training)) if random is None else random.permutation(len(training))
        for index in order:
            sequence = training[index]
            loss, gradients = model.loss_and_gradients(sequence)
            for gradient in gradients.values():
                gradient /= len(sequence) - 1
            curves.norms.append(clip(gradients, clip_norm))
            optimiser.step(parameters, gradients)
            total += loss
        curves.training.append(total / _targets(training))
    curves.validation.append(validate(model, validation))
    return curves


def plot(curves: Curves, file: Path) -> None:
    """Draw both losses over the epochs, in the format that the file's name ends with. Needs matplotlib, no display."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4))).subplots()
    axes.plot(np.arange(len(curves.training)) + 0.5, curves.training, "o-", label="training, during the epoch")
    axes.plot(np.arange(len(curves.validation)), curves.validation, "o-", label="validation, between epochs")
    axes.set(xlabel="epochs", ylabel="nats per token", ylim=(0, None))
    axes.legend()
    figure.savefig(file)


def _targets(sequences: Sequence[Tokens]) -> int:
    return sum(len(sequence) - 1 for sequence in sequences)
