"""The gated recurrent unit: Cho et al. (2014), "Learning Phrase Representations using RNN Encoder-Decoder".

It has no cell state: h is all that it carries. The reset gate stands behind its product, as in cuDNN and `nn.GRU`, and
not before it as in the paper's first version: every product then has h or x as its input, all those of h are one
product, and |h| <= 1, which the fixed scale of int8 counts on.

    r = σ(W_r x + U_r h + b_r)              z = σ(W_z x + U_z h + b_z)
    g = tanh(W_g x + b_g + r ⊙ (U_g h + b_u))
    h' = z ⊙ h + (1 - z) ⊙ g

Stacked parameters are in the order r, z, g.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from charloom.network.cells.cell import CANDIDATE, Array, Cell, Graph, GraphLayer, ScriptedStep, fixed, sigmoid, split
from charloom.network.cells.layer import Layer, Step, double


class GRULayer(Layer):
    """`bias_hh` [H] is b_u, the bias inside the reset; the update gate's bias starts at 1, so that h is kept."""

    products = 3

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__(input_size, hidden_size, weight_drop, zoneout)
        self.bias.data[hidden_size : 2 * hidden_size] = 1.0
        self.bias_hh = nn.Parameter(torch.zeros(hidden_size))

    def _prepared(self, products: Tensor) -> tuple[Tensor, Tensor]:
        inputs = products + self.bias.to(products.dtype)
        of_gates = inputs[..., : 2 * self.hidden_size]
        inside = self.bias_hh.to(products.dtype).expand(*products.shape[:2], -1)
        return inputs[..., 2 * self.hidden_size :], torch.cat([of_gates, inside], dim=2)

    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        (h,) = state
        r, z, recurrent = product.chunk(3, dim=1)
        r, z = torch.sigmoid(r), torch.sigmoid(z)
        g = torch.tanh(inputs + r * recurrent)
        return Step((z * h + (1 - z) * g,), (r, z, g))

    def folded(self, first: bool) -> dict[str, Tensor]:
        """`matrix` [H, 3H] of h and, in later layers, `inputs` [H, 3H] of the h below; `bias_hh` [H]."""
        own = {"matrix": double(self.weight_hh).T, "bias_hh": double(self.bias_hh)}
        return own if first else own | {"inputs": double(self.weight_ih).T, "bias": double(self.bias)}


def equations(own: Mapping[str, Array], x: Array, state: tuple[Array, ...]) -> Step[Array]:
    """One step in NumPy."""
    (h,) = state
    x_r, x_z, x_g = split(own["weight_ih"] @ x + own["bias"], 3)
    h_r, h_z, h_g = split(own["weight_hh"] @ h, 3)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    g = np.tanh(x_g + r * (h_g + own["bias_hh"]))
    return Step((z * h + (1 - z) * g,), (r, z, g))


def nodes(graph: Graph, layer: GraphLayer) -> Step[str]:
    """One step in a graph."""
    (h,), hidden = layer.state, layer.hidden
    recurrent = graph.product(layer.own, f"{layer.name}_hh", layer.weights["matrix"])
    inputs = layer.added
    if layer.below is not None:
        inputs = graph.op("Add", graph.product(layer.below, f"{layer.name}_ih", layer.weights["inputs"]), inputs)
    sizes = graph.ints(2 * hidden, hidden)
    x_gates, x_g = graph.ops("Split", 2, inputs, sizes, axis=1)
    h_gates, h_g = graph.ops("Split", 2, recurrent, sizes, axis=1)
    gates = graph.op("Sigmoid", graph.op("Add", x_gates, h_gates))
    r, z = graph.ops("Split", 2, gates, graph.ints(hidden, hidden), axis=1)
    inside = graph.op("Add", h_g, graph.constant(f"{layer.name}_bias_hh", layer.weights["bias_hh"]))
    g = graph.op("Tanh", graph.op("Add", x_g, graph.op("Mul", r, inside)))
    return Step((graph.op("Add", g, graph.op("Mul", z, graph.op("Sub", h, g))),), (r, z, g))


class ScriptedGRU(ScriptedStep):
    """One step in TorchScript."""

    def __init__(self, weights: Mapping[str, Tensor], hidden: int, first: bool) -> None:
        super().__init__(weights, hidden, first)
        self.bias_hh = fixed(weights["bias_hh"])
        if not first:
            self.inputs = fixed(weights["inputs"])

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        n, h = self.hidden, state[0]
        inputs = below if self.first else torch.addmm(self.bias, below, self.inputs)
        recurrent = torch.mm(h, self.matrix)
        r, z = torch.sigmoid(inputs[:, : 2 * n] + recurrent[:, : 2 * n]).chunk(2, dim=1)
        g = torch.tanh(inputs[:, 2 * n :] + r * (recurrent[:, 2 * n :] + self.bias_hh))
        return [g + z * (h - g)]


GRU = Cell(("h",), ("reset", "update", CANDIDATE), GRULayer, equations, nodes, ScriptedGRU)
