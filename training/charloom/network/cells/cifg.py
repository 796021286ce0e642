"""The LSTM with coupled input and forget gate (CIFG): what is forgotten makes room for what is taken in.

Greff et al. (2017), "LSTM: A Search Space Odyssey", found it as good as the plain cell, with a quarter fewer products:

    i = 1 - f

and all else is as in `lstm`. Stacked parameters are in the order f, o, g, so that one sigmoid covers the gates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from charloom.network.cells.cell import Array, Cell, Graph, GraphLayer, ScriptedStep, one_product, sigmoid, split
from charloom.network.cells.layer import Layer, Step
from charloom.network.cells.lstm import GATES


class CIFGLayer(Layer):
    """The forget gate's bias starts at 1, as in `lstm`."""

    products = 3

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__(input_size, hidden_size, weight_drop, zoneout)
        self.bias.data[:hidden_size] = 1.0

    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        _, c = state
        f, o, g = product.chunk(3, dim=1)
        f, o, g = torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)
        i = 1 - f
        c = f * c + i * g
        return Step((o * torch.tanh(c), c), (i, f, g, o))


def equations(own: Mapping[str, Array], x: Array, state: tuple[Array, ...]) -> Step[Array]:
    """One step in NumPy."""
    h, c = state
    f, o, g = split(own["weight_ih"] @ x + own["weight_hh"] @ h + own["bias"], 3)
    f, o, g = sigmoid(f), sigmoid(o), np.tanh(g)
    c = f * c + (1 - f) * g
    return Step((o * np.tanh(c), c), (1 - f, f, g, o))


def nodes(graph: Graph, layer: GraphLayer) -> Step[str]:
    """One step in a graph."""
    hidden = layer.hidden
    to_sigmoid, to_tanh = graph.ops("Split", 2, one_product(graph, layer), graph.ints(2 * hidden, hidden), axis=1)
    f, o = graph.ops("Split", 2, graph.op("Sigmoid", to_sigmoid), graph.ints(hidden, hidden), axis=1)
    g = graph.op("Tanh", to_tanh)
    i = graph.op("Sub", graph.constant("float_1", np.float32(1)), f)
    c = graph.op("Add", graph.op("Mul", f, layer.state[1]), graph.op("Mul", i, g))
    return Step((graph.op("Mul", o, graph.op("Tanh", c)), c), (i, f, g, o))


class ScriptedCIFG(ScriptedStep):
    """One step in TorchScript."""

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        n = self.hidden
        h, c = state
        gates = self.one_product(below, h)
        f, o = torch.sigmoid(gates[:, : 2 * n]).chunk(2, dim=1)
        c = f * c + (1 - f) * torch.tanh(gates[:, 2 * n :])
        return [o * torch.tanh(c), c]


CIFG = Cell(("h", "c"), GATES, CIFGLayer, equations, nodes, ScriptedCIFG)
