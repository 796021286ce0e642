"""How open the gates are on a text: each value is counted, and the same text gives the same figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charloom.bundle import CellKind
from charloom.network.trace import trace
from charloom.training.data.stream import Stream
from charloom.training.gates import gate_activations
from tests.unit.network.test_trace import SHAPES, model_of

ROWS, LENGTH, BINS = 32, 64, 20


@pytest.mark.parametrize("cell", list(CellKind))
def test_activations_count_every_value_of_every_gate(cell: CellKind) -> None:
    model = model_of(cell)
    text = np.random.default_rng(1).integers(20, size=5000)
    found = gate_activations(model.train(), Stream(text))
    assert list(found) == ["layer 1", "layer 2", "layer 3"]
    tokens = torch.from_numpy(text[: ROWS * LENGTH].reshape(ROWS, LENGTH))
    for kinds, made in zip(found.values(), trace(model, tokens), strict=True):
        values = made.gates | {"hidden": made.state["h"].abs()}
        assert kinds.keys() == values.keys()
        for kind, expected in values.items():
            activations, low = kinds[kind], -1.0 if kind == "candidate" else 0.0
            assert (activations.low, len(activations.counts), sum(activations.counts)) == (low, BINS, expected.numel())
            place = 7
            edges = [low + (1 - low) * bin_ / BINS for bin_ in (place, place + 1)]
            between = int(((expected >= edges[0]) & (expected < edges[1])).sum())
            assert activations.counts[place] == pytest.approx(between, abs=2)  # values may lie on an edge
            assert activations.near_low == pytest.approx(float((expected < low + 0.1).float().mean()), abs=1e-4)
            assert activations.near_high == pytest.approx(float((expected > 0.9).float().mean()), abs=1e-4)


def test_the_same_weights_and_text_give_the_same_activations_whatever_was_drawn_before() -> None:
    model, text = model_of(CellKind.LSTM), np.random.default_rng(1).integers(20, size=300)
    first = gate_activations(model.train(), Stream(text))
    torch.rand(3)
    assert gate_activations(model.train(), Stream(text)) == first
    assert gate_activations(model, Stream(text[::-1])) != first


@pytest.mark.parametrize("size", [2, LENGTH - 1, LENGTH, 2 * LENGTH + 5])
def test_a_short_text_is_read_as_far_as_it_goes(size: int) -> None:
    found = gate_activations(model_of(CellKind.LSTM), Stream(np.zeros(size, np.int64)))
    read = size if size < LENGTH else size // LENGTH * LENGTH
    assert sum(found["layer 1"]["input"].counts) == read * SHAPES["hidden_size"]
