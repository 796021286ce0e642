"""The LSTM: Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).

    i = σ(W_i x + U_i h + b_i)     f = σ(W_f x + U_f h + b_f)     o = σ(W_o x + U_o h + b_o)
    g = tanh(W_g x + U_g h + b_g)
    c' = f ⊙ c + i ⊙ g             h' = o ⊙ tanh(c')

Trained parameters hold the gates in torch's order i, f, g, o. A decoder has them in the order i, f, o, g, so that one
sigmoid covers three of them; its step is one product per layer, and nothing that is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from charloom.network.cells.cell import (
    CANDIDATE,
    Array,
    Cell,
    Graph,
    GraphLayer,
    ScriptedStep,
    one_product,
    sigmoid,
    split,
)
from charloom.network.cells.layer import Layer, LayerOutput, Step, double
from charloom.network.dropout import dropout

GATES = ("input", "forget", CANDIDATE, "output")


class FourGates(Layer):
    """A layer with the four products i, f, g, o; the forget gate's bias starts at 1 (Gers et al., 2000)."""

    def __init__(self, input_size: int, hidden_size: int, weight_drop: float, zoneout: tuple[float, ...]) -> None:
        super().__init__(input_size, hidden_size, weight_drop, zoneout)
        self.bias.data[hidden_size : 2 * hidden_size] = 1.0

    def ordered(self, parameter: Tensor) -> Tensor:
        i, f, g, o = double(parameter).chunk(4)
        return torch.cat([i, f, o, g])


class LSTMLayer(FourGates):
    """The plain cell."""

    fused = True

    def forward(self, x: Tensor, state: Sequence[Tensor], resets: Tensor | None = None) -> LayerOutput:
        h, c = state
        if resets is not None and not bool(resets[:, 1:].any()):
            kept = (~resets[:, :1]).to(h.dtype)
            h, c, resets = h * kept, c * kept, None
        if resets is not None or any(self.zoneout):
            return super().forward(x, (h, c), resets)
        recurrent = dropout(self.weight_hh, self.weight_drop, self.training)
        weights = [self.weight_ih, recurrent, self.bias, torch.zeros_like(self.bias)]
        outputs, h, c = torch.lstm(  # the function that nn.LSTM calls: oneDNN on a CPU, cuDNN on a GPU
            x, (h.unsqueeze(0), c.unsqueeze(0)), weights, True, 1, 0.0, self.training, False, True
        )
        return LayerOutput(outputs, (h.squeeze(0), c.squeeze(0)))

    def step(self, product: Tensor, inputs: Tensor, state: tuple[Tensor, ...]) -> Step[Tensor]:
        _, c = state
        i, f, g, o = product.chunk(4, dim=1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        return Step((o * torch.tanh(c), c), (i, f, g, o))


def equations(own: Mapping[str, Array], x: Array, state: tuple[Array, ...]) -> Step[Array]:
    """One step in NumPy."""
    h, c = state
    i, f, g, o = split(own["weight_ih"] @ x + own["weight_hh"] @ h + own["bias"], 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return Step((o * np.tanh(c), c), (i, f, g, o))


def nodes(graph: Graph, layer: GraphLayer) -> Step[str]:
    """One step in a graph."""
    i, f, g, o, c = gated(graph, layer, one_product(graph, layer))
    return Step((graph.op("Mul", o, graph.op("Tanh", c)), c), (i, f, g, o))


def gated(graph: Graph, layer: GraphLayer, preactivation: str) -> tuple[str, str, str, str, str]:
    """From [B, 4H], in the order i, f, o, g, to the gates i, f, g, o and the new c."""
    hidden = layer.hidden
    to_sigmoid, to_tanh = graph.ops("Split", 2, preactivation, graph.ints(3 * hidden, hidden), axis=1)
    sizes = graph.ints(hidden, hidden, hidden)
    i, f, o = graph.ops("Split", 3, graph.op("Sigmoid", to_sigmoid), sizes, axis=1)
    g = graph.op("Tanh", to_tanh)
    kept = graph.op("Mul", f, layer.state[1])
    return i, f, g, o, graph.op("Add", kept, graph.op("Mul", i, g))


class ScriptedLSTM(ScriptedStep):
    """One step in TorchScript."""

    def forward(self, below: Tensor, state: list[Tensor]) -> list[Tensor]:
        n = self.hidden
        h, c = state
        gates = self.one_product(below, h)
        i, f, o = torch.sigmoid(gates[:, : 3 * n]).chunk(3, dim=1)
        c = f * c + i * torch.tanh(gates[:, 3 * n :])
        return [o * torch.tanh(c), c]


LSTM = Cell(("h", "c"), GATES, LSTMLayer, equations, nodes, ScriptedLSTM)
