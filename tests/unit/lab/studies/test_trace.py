"""The gates of a trace, against what the model makes of the same text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm

from charloom.bundle import CellKind
from charloom.lab.studies.trace import trace
from charloom.network.cells import CELLS
from charloom.network.cells.layer_norm import EPSILON
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM

TOKENS = np.random.default_rng(0).integers(7, size=30)


def model(cell: CellKind, **settings: float) -> CharLSTM:
    torch.manual_seed(1)
    found = CharLSTM(7, ModelConfig(cell=cell, layers=2, hidden_size=9, embedding_size=5, dropout=0.5, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in found.parameters():  # away from where biases, gains and peepholes are zero or one
            parameter += 0.3 * torch.randn_like(parameter)
    return found


def before(states: np.ndarray) -> np.ndarray:
    """The state that each token found."""
    return np.concatenate([np.zeros_like(states[:, :1]), states[:, :-1]], axis=1)


@pytest.mark.parametrize("zoneout", [0.0, 0.2])
@pytest.mark.parametrize("cell", CellKind)
def test_states_and_outputs_are_those_of_the_model(cell: CellKind, zoneout: float) -> None:
    shares = {"zoneout_hidden": zoneout} | ({} if cell is CellKind.GRU else {"zoneout_cell": zoneout})
    net = model(cell, **shares)
    found = trace(net, TOKENS)
    assert all(part.shape == (2, 30, 9) for part in (*found.state.values(), *found.gates.values()))
    for length in (1, 17, 30):
        with torch.no_grad():
            logits, state = net.eval()(torch.from_numpy(TOKENS[None, :length]), net.zero_state(1))
            own = net.head(torch.from_numpy(found.state["h"][-1]))
        for part, expected in zip(found.state.values(), state, strict=True):
            np.testing.assert_allclose(part[:, length - 1], expected[:, 0], atol=1e-5)
        np.testing.assert_allclose(own[:length], logits[0], atol=1e-5)


@pytest.mark.parametrize("zoneout", [0.0, 0.2])
@pytest.mark.parametrize("cell", [cell for cell in CellKind if "c" in CELLS[cell].arrays])
def test_gates_make_the_states(cell: CellKind, zoneout: float) -> None:
    net = model(cell, zoneout_cell=zoneout, zoneout_hidden=zoneout)
    found = trace(net, TOKENS)
    i, f, g, o = (found.gates[name] for name in ("input", "forget", "candidate", "output"))
    h, c = found.state["h"], found.state["c"]
    new = f * before(c) + i * g
    np.testing.assert_allclose(c, (1 - zoneout) * new + zoneout * before(c), atol=1e-5)
    seen = new
    if cell is CellKind.LAYER_NORM:
        seen = np.stack(
            [
                layer_norm(torch.from_numpy(part), (9,), layer.gain_c, layer.shift_c, EPSILON).detach().numpy()
                for part, layer in zip(new, net.layers, strict=True)
            ]
        )
    np.testing.assert_allclose(h, (1 - zoneout) * o * np.tanh(seen) + zoneout * before(h), atol=1e-5)
    for gate in (i, f, o):
        assert 0 < gate.min() < 0.4 < 0.6 < gate.max() < 1
        assert np.ptp(gate, axis=1).min() > 1e-4


def test_a_trace_is_read_without_dropout_and_names_its_parts() -> None:
    net = model(CellKind.LSTM).train()
    one, two = trace(net, TOKENS), trace(net, TOKENS)
    for parts, others in zip(one, two, strict=True):
        assert all(np.array_equal(parts[name], others[name]) for name in parts)
    assert (list(one.state), list(one.gates)) == (["h", "c"], ["input", "forget", "candidate", "output"])
    assert one.memory is one.state["c"]
