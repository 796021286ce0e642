"""Peepholes and layer normalisation in torch against their equations in NumPy, and the NumPy ones' slopes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charloom.lab.reference.numerical import disagreement, numerical_gradient
from charloom.lab.reference.numpy_variants import layer_norm, layer_norm_step, peephole_step
from charloom.lab.reference.torch_cells import Cell, CombinedCell, LayerNormCell, PeepholeCell, State
from charloom.lab.reference.torch_layers import Bidirectional, Layer, Stacked
from tests.unit.lab.reference.checks import CLOSE

Array = NDArray[np.float64]
Step = Callable[[dict[str, Array], Array, Array, Array], tuple[Array, Array]]
B, T, X, H = 2, 4, 3, 5


def peepholes(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return peephole_step(x, h, c, p["weight"], p["bias"], (p["see_i"], p["see_f"], p["see_o"]))


def normalised(p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    inputs, hidden, cell = ((p[f"norm_{of}.weight"], p[f"norm_{of}.bias"]) for of in ("inputs", "hidden", "cell"))
    return layer_norm_step(x, h, c, p["weight_ih"], p["weight_hh"], p["bias"], (inputs, hidden, cell))


VARIANTS = pytest.mark.parametrize(
    ("make", "step"), [(PeepholeCell, peepholes), (LayerNormCell, normalised)], ids=["peepholes", "layer norm"]
)


def random_cell(make: type[Cell]) -> tuple[Cell, dict[str, Array]]:
    """A cell with no parameter at the value that leaves it out, and its parameters in NumPy, sharing memory."""
    torch.manual_seed(0)
    cell = make(X, H).double()
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, mean=0.2, std=0.7)
    return cell, {name: parameter.detach().numpy() for name, parameter in cell.named_parameters()}


@VARIANTS
def test_a_step_is_its_equations(make: type[Cell], step: Step) -> None:
    cell, parameters = random_cell(make)
    random = np.random.default_rng(0)
    for _ in range(5):
        x, h, c = (random.standard_normal((B, size)) for size in (X, H, H))
        with torch.no_grad():
            found = cell(torch.from_numpy(x), State(torch.from_numpy(h), torch.from_numpy(c)))
        expected = step(parameters, x, h, c)
        np.testing.assert_allclose(found.h.numpy(), expected[0], atol=1e-13)
        np.testing.assert_allclose(found.c.numpy(), expected[1], atol=1e-13)


@VARIANTS
def test_gradients_through_a_sequence_are_the_slopes_of_the_equations(make: type[Cell], step: Step) -> None:
    cell, parameters = random_cell(make)
    random = np.random.default_rng(1)
    inputs, weights = random.standard_normal((T, B, X)), random.standard_normal((T, B, H))

    def value() -> float:
        h, c, total = np.zeros((B, H)), np.zeros((B, H)), 0.0
        for t in range(T):
            h, c = step(parameters, inputs[t], h, c)
            total += float((h * weights[t]).sum())
        return total + float(c.sum())

    taken = torch.from_numpy(inputs).clone().requires_grad_()
    outputs, (_, c) = Layer(cell, batch_first=False)(taken)
    ((outputs * torch.from_numpy(weights)).sum() + c.sum()).backward()
    for name, parameter in cell.named_parameters():
        assert parameter.grad is not None
        assert disagreement(parameter.grad.numpy(), numerical_gradient(value, parameters[name])) < CLOSE, name
    assert taken.grad is not None
    assert disagreement(taken.grad.numpy(), numerical_gradient(value, inputs)) < CLOSE


def test_peepholes_of_zero_leave_the_plain_cell() -> None:
    torch.manual_seed(0)
    plain, seeing = CombinedCell(X, H), PeepholeCell(X, H)
    seeing.load_state_dict(plain.state_dict(), strict=False)
    x, state = torch.randn(B, X), State(torch.randn(B, H), torch.randn(B, H))
    torch.testing.assert_close(seeing(x, state), plain(x, state), atol=0, rtol=0)


def test_the_output_gate_sees_the_new_cell_state_and_the_others_the_old_one() -> None:
    """With all weights zero and peepholes of one, the gates are the sigmoid of what they see."""
    cell = PeepholeCell(1, 1).double()
    for name, parameter in cell.named_parameters():
        torch.nn.init.constant_(parameter, 1.0 if name.startswith("see") else 0.0)
    h, c = cell(torch.zeros(1, 1).double(), State(torch.zeros(1, 1).double(), torch.full((1, 1), 2.0).double()))
    kept = 2 / (1 + np.exp(-2))
    assert c.item() == pytest.approx(kept)
    assert h.item() == pytest.approx(np.tanh(kept) / (1 + np.exp(-kept)))


def test_normalised_rows_have_mean_zero_and_variance_one_and_ignore_scale() -> None:
    x = np.random.default_rng(0).normal(3, 5, (4, 32))
    found = layer_norm(x, np.ones(32), np.zeros(32))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.var(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(layer_norm(7 * x + 2, np.full(32, 2.0), np.ones(32)), 2 * found + 1, atol=1e-5)


@pytest.mark.parametrize("make", [PeepholeCell, LayerNormCell])
def test_the_variants_stack_and_go_both_ways(make: type[Cell]) -> None:
    torch.manual_seed(0)
    layers, inputs = Stacked(X, H, 2, bidirectional=True, make=make), torch.randn(B, T, X)
    assert all(isinstance(layer, Bidirectional) for layer in layers.layers)
    outputs, (h, c) = layers(inputs)
    assert outputs.shape == (B, T, 2 * H)
    assert h.shape == c.shape == (4, B, H)
    torch.testing.assert_close(outputs[:, -1, :H], h[2], atol=0, rtol=0)
