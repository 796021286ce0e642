"""Gates of each layer, against what the layer itself gives back and against the cell's own equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from charloom.bundle import CellKind
from charloom.network.cells import CELLS
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.network.trace import trace

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
