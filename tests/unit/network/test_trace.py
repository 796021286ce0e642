"""Gates of each layer, against what the layer itself gives back and against the cell's own equation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from charloom.bundle import CellKind
from charloom.network.cells import CELLS
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.network.trace import BINS, LENGTH, ROWS, gate_activations, trace

SHAPES: dict[str, Any] = {"layers": 3, "hidden_size": 10, "embedding_size": 6, "dropout": 0.5}


def model_of(cell: CellKind, **changes: Any) -> CharLSTM:
    torch.manual_seed(3)
    model = CharLSTM(20, ModelConfig.model_validate(SHAPES | {"cell": cell} | changes))
    for parameter in model.parameters():  # so that peepholes, gains and biases matter
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("cell", list(CellKind))
@pytest.mark.parametrize("zoneout", [0.0, 0.3])
def test_the_states_of_a_trace_are_those_of_the_network(cell: CellKind, zoneout: float) -> None:
    shares = {"zoneout_hidden": zoneout / 2} | ({} if cell is CellKind.GRU else {"zoneout_cell": zoneout})
    model = model_of(cell, weight_drop=0.5, **shares)
    tokens = torch.randint(20, (4, 9))
    traces = list(trace(model, tokens))
    logits, state = model(tokens, model.zero_state(4))
    assert len(traces) == 3
    for layer, made in enumerate(traces):
        assert tuple(made.state) == model.cell.arrays
        for found, expected in zip(made.state.values(), state[:, layer], strict=True):
            torch.testing.assert_close(found[:, -1], expected)
    torch.testing.assert_close(model.head(traces[-1].state["h"]), logits)


@pytest.mark.parametrize("cell", [cell for cell in CellKind if "c" in CELLS[cell].arrays])
def test_the_gates_of_a_trace_make_its_cell_states(cell: CellKind) -> None:
    for made in trace(model_of(cell), torch.randint(20, (4, 9))):
        h, c, gates = made.state["h"], made.state["c"], made.gates
        before = torch.cat([torch.zeros_like(c[:, :1]), c[:, :-1]], dim=1)
        torch.testing.assert_close(c, gates["forget"] * before + gates["input"] * gates["candidate"])
        if cell is not CellKind.LAYER_NORM:
            torch.testing.assert_close(h, gates["output"] * torch.tanh(c))


@pytest.mark.parametrize("cell", list(CellKind))
def test_activations_count_every_value_of_every_gate(cell: CellKind) -> None:
    model = model_of(cell)
    text = np.random.default_rng(1).integers(20, size=5000)
    found = gate_activations(model.train(), text)
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
    first = gate_activations(model.train(), text)
    torch.rand(3)
    assert gate_activations(model.train(), text) == first
    assert gate_activations(model, text[::-1]) != first


@pytest.mark.parametrize("size", [2, LENGTH - 1, LENGTH, 2 * LENGTH + 5])
def test_a_short_text_is_read_as_far_as_it_goes(size: int) -> None:
    found = gate_activations(model_of(CellKind.LSTM), np.zeros(size, np.int64))
    read = size if size < LENGTH else size // LENGTH * LENGTH
    assert sum(found["layer 1"]["input"].counts) == read * SHAPES["hidden_size"]
