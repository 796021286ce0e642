"""The LSTM with peepholes: Gers and Schmidhuber (2000), "Recurrent nets that time and count".

The gates i and f also see the cell state before the step, o the one after it, each value only its own:

    i = σ(... + p_i ⊙ c)     f = σ(... + p_f ⊙ c)     o = σ(... + p_o ⊙ c')

and all else is as in `lstm`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from charloom.network.cells.cell import Array, Cell, Graph, GraphLayer, ScriptedStep, fixed, one_product, sigmoid, split
from charloom.network.cells.layer import Step, double
from charloom.network.cells.lstm import GATES, FourGates


class PeepholeLayer(FourGates):
    """The peepholes `see` [3, H], of i, f and o, start at zero, where the cell is the plain one."""

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__(input_size, hidden_size, weight_drop, zoneout)
        self.see = nn.Parameter(torch.zeros(3, hidden_size))

    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        _, c = state
        i, f, g, o = product.chunk(4, dim=1)
        see_i, see_f, see_o = self.see
        i, f, g = torch.sigmoid(i + see_i * c), torch.sigmoid(f + see_f * c), torch.tanh(g)
        c = f * c + i * g
        o = torch.sigmoid(o + see_o * c)
        return Step((o * torch.tanh(c), c), (i, f, g, o))

    def folded(self, first: bool) -> dict[str, Tensor]:
        return super().folded(first) | {"see": double(self.see)}


def equations(own: Mapping[str, Array], x: Array, state: tuple[Array, ...]) -> Step[Array]:
    """One step in NumPy."""
    h, c = state
    i, f, g, o = split(own["weight_ih"] @ x + own["weight_hh"] @ h + own["bias"], 4)
    see_i, see_f, see_o = own["see"]
    i, f, g = sigmoid(i + see_i * c), sigmoid(f + see_f * c), np.tanh(g)
    c = f * c + i * g
    o = sigmoid(o + see_o * c)
    return Step((o * np.tanh(c), c), (i, f, g, o))


def nodes(graph: Graph, layer: GraphLayer) -> Step[str]:
    """One step in a graph."""
    _, c_old = layer.state
    preactivation = one_product(graph, layer)
    of_i, of_f, of_o, to_tanh = graph.ops("Split", 4, preactivation, graph.ints(*[layer.hidden] * 4), axis=1)
    see_i, see_f, see_o = (
        graph.constant(f"{layer.name}_see_{gate}", row) for gate, row in zip("ifo", layer.weights["see"], strict=True)
    )
    i = graph.op("Sigmoid", graph.op("Add", of_i, graph.op("Mul", see_i, c_old)))
    f = graph.op("Sigmoid", graph.op("Add", of_f, graph.op("Mul", see_f, c_old)))
    g = graph.op("Tanh", to_tanh)
    kept = graph.op("Mul", f, c_old)
    c = graph.op("Add", kept, graph.op("Mul", i, g))
    o = graph.op("Sigmoid", graph.op("Add", of_o, graph.op("Mul", see_o, c)))
    return Step((graph.op("Mul", o, graph.op("Tanh", c)), c), (i, f, g, o))


class ScriptedPeephole(ScriptedStep):
    """One step in TorchScript."""

    def __init__(self, weights: Mapping[str, Tensor], hidden: int, first: bool) -> None:
        super().__init__(weights, hidden, first)
        self.see = fixed(weights["see"])

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        n = self.hidden
        h, c = state
        gates = self.one_product(below, h)
        i = torch.sigmoid(gates[:, :n] + self.see[0] * c)
        f = torch.sigmoid(gates[:, n : 2 * n] + self.see[1] * c)
        c = f * c + i * torch.tanh(gates[:, 3 * n :])
        o = torch.sigmoid(gates[:, 2 * n : 3 * n] + self.see[2] * c)
        return [o * torch.tanh(c), c]


PEEPHOLE = Cell(("h", "c"), GATES, PeepholeLayer, equations, nodes, ScriptedPeephole)
