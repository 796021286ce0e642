"""The LSTM with layer normalisation (Ba, Kiros and Hinton, 2016), as in the supplement to the paper.

The two products are normalised, each over all gates at once, and the cell state on its way to h:

    [i f g o] = LN(W x; γ_x) + LN(U h; γ_h) + b     h' = o ⊙ tanh(LN(c'; γ_c, β_c))

and all else is as in `lstm`. Shifts of the products are in b, so that their norms have gains only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from charloom.network.cells.cell import Array, Cell, Graph, GraphLayer, ScriptedStep, fixed, sigmoid, split
from charloom.network.cells.layer import Step, double
from charloom.network.cells.lstm import GATES, FourGates, gated

EPSILON = 1e-5
"""Added to the variance."""


class LayerNormLayer(FourGates):
    """Gains of the products are `gain_ih`, `gain_hh` [4H]; the cell state has `gain_c` and `shift_c` [H]."""

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__(input_size, hidden_size, weight_drop, zoneout)
        self.gain_ih = nn.Parameter(torch.ones(4 * hidden_size))
        self.gain_hh = nn.Parameter(torch.ones(4 * hidden_size))
        self.gain_c, self.shift_c = nn.Parameter(torch.ones(hidden_size)), nn.Parameter(torch.zeros(hidden_size))

    def _prepared(self, products: Tensor) -> tuple[Tensor, Tensor]:
        normed = layer_norm(products.to(self.bias.dtype), self.gain_ih.shape, self.gain_ih, self.bias, EPSILON)
        return normed, torch.zeros((), dtype=products.dtype, device=products.device).expand_as(products)

    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        _, c = state
        i, f, g, o = (inputs + layer_norm(product, self.gain_hh.shape, self.gain_hh, None, EPSILON)).chunk(4, dim=1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        seen = layer_norm(c, self.gain_c.shape, self.gain_c, self.shift_c, EPSILON)
        return Step((o * torch.tanh(seen), c), (i, f, g, o))

    def of_inputs(self, x: Tensor) -> Tensor:
        products, gain = x @ self.ordered(self.weight_ih).T, self.ordered(self.gain_ih)
        return layer_norm(products, gain.shape, gain, None, EPSILON) + self.ordered(self.bias)

    def folded(self, first: bool) -> dict[str, Tensor]:
        gains = {"gain_ih": self.ordered(self.gain_ih), "gain_hh": self.ordered(self.gain_hh)}
        cell = {"gain_c": double(self.gain_c), "shift_c": double(self.shift_c)}
        return super().folded(first) | gains | cell


def equations(own: Mapping[str, Array], x: Array, state: tuple[Array, ...]) -> Step[Array]:
    """One step in NumPy."""
    h, c = state
    products = normed(own["weight_ih"] @ x) * own["gain_ih"] + normed(own["weight_hh"] @ h) * own["gain_hh"]
    i, f, g, o = split(products + own["bias"], 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return Step((o * np.tanh(normed(c) * own["gain_c"] + own["shift_c"]), c), (i, f, g, o))


def normed(x: Array) -> Array:
    """To mean 0 and variance 1."""
    centred = x - x.mean()
    result: Array = centred / np.sqrt(np.square(centred).mean() + EPSILON)
    return result


def nodes(graph: Graph, layer: GraphLayer) -> Step[str]:
    """One step in a graph; the two products are apart, since each is normalised by itself."""
    matrix, hidden = layer.weights["matrix"], layer.hidden

    def norm(value: str, part: str, *shift: str) -> str:
        gain = graph.constant(f"{layer.name}_gain_{part}", layer.weights[f"gain_{part}"])
        return graph.op("LayerNormalization", value, gain, *shift, axis=1, epsilon=EPSILON)

    recurrent = graph.product(layer.own, f"{layer.name}_hh", matrix[-hidden:])
    preactivation = graph.op("Add", norm(recurrent, "hh"), layer.added)
    if layer.below is not None:
        inputs = graph.product(layer.below, f"{layer.name}_ih", matrix[:hidden])
        preactivation = graph.op("Add", norm(inputs, "ih"), preactivation)
    i, f, g, o, c = gated(graph, layer, preactivation)
    shift = graph.constant(f"{layer.name}_shift_c", layer.weights["shift_c"])
    return Step((graph.op("Mul", o, graph.op("Tanh", norm(c, "c", shift))), c), (i, f, g, o))


class ScriptedLayerNorm(ScriptedStep):
    """One step in TorchScript."""

    __constants__ = ("epsilon", "first", "hidden")

    def __init__(self, weights: Mapping[str, Tensor], hidden: int, first: bool) -> None:
        super().__init__(weights, hidden, first)
        self.epsilon = EPSILON
        self.gain_ih, self.gain_hh = fixed(weights["gain_ih"]), fixed(weights["gain_hh"])
        self.gain_c, self.shift_c = fixed(weights["gain_c"]), fixed(weights["shift_c"])

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        n = self.hidden
        h, c = state
        gates = layer_norm(torch.mm(h, self.matrix[-n:]), [4 * n], self.gain_hh, None, self.epsilon)
        if self.first:
            gates = gates + below
        else:
            inputs = torch.mm(below, self.matrix[:n])
            gates = gates + layer_norm(inputs, [4 * n], self.gain_ih, self.bias, self.epsilon)
        i, f, o = torch.sigmoid(gates[:, : 3 * n]).chunk(3, dim=1)
        c = f * c + i * torch.tanh(gates[:, 3 * n :])
        return [o * torch.tanh(layer_norm(c, [n], self.gain_c, self.shift_c, self.epsilon)), c]


LAYER_NORM = Cell(("h", "c"), GATES, LayerNormLayer, equations, nodes, ScriptedLayerNorm)
