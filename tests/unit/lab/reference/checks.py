"""A small language model with all gradients checked, and pieces that the tests share."""

from __future__ import annotations

import numpy as np

from charloom.lab.reference.numerical import disagreement, numerical_gradient
from charloom.lab.reference.numpy_language_model import LanguageModel, Tokens
from charloom.lab.reference.numpy_lstm import LSTM

CLOSE = 1e-7
"""What float64 differences leave of a right gradient; the wrong ones are off by ten thousand times as much."""
WRONG = 1e-3
VOCABULARY, HIDDEN = 5, 4


def random_layer(inputs: int, hidden: int, seed: int = 0) -> LSTM:
    """A layer with no zero among its parameters, so that no wrong term can hide behind one."""
    random = np.random.default_rng(seed)
    layer = LSTM.initialised(inputs, hidden, random)
    for parameter in layer.parameters.values():
        parameter += random.normal(0, 0.5, parameter.shape)
    return layer


def random_model(
    seed: int = 0, kind: type[LanguageModel] = LanguageModel, layer_kind: type[LSTM] = LSTM
) -> LanguageModel:
    random = np.random.default_rng(seed)
    layer = layer_kind(random_layer(VOCABULARY, HIDDEN, seed).parameters)
    return kind(layer, random.normal(0, 1, (VOCABULARY, HIDDEN)), random.normal(0, 1, VOCABULARY))


def random_sequence(length: int = 6, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(VOCABULARY, size=length + 1)


def wrong_gradients(model: LanguageModel, sequence: Tokens) -> dict[str, float]:
    """By name, how far each parameter's gradient is from the numerical one; those that are close left out."""
    _, gradients = model.loss_and_gradients(sequence)
    found = {
        name: disagreement(gradients[name], numerical_gradient(lambda: model.loss(sequence), parameter))
        for name, parameter in model.parameters.items()
    }
    return {name: error for name, error in found.items() if not error < CLOSE}


def made_up_text(length: int, seed: int = 0) -> str:
    """Words in random order: something to learn, the same on every machine."""
    words = [
        "the",
        "loom",
        "has",
        "many",
        "threads",
        "and",
        "each",
        "keeps",
        "its",
        "colour",
        "through",
        "every",
        "pass",
    ]
    random = np.random.default_rng(seed)
    return " ".join(words[i] for i in random.integers(len(words), size=length))[:length]
