"""LSTM cells in torch, each from tensor operations: one step of B rows.

Knows: the equations of four cells. Does not know: sequences, how to differentiate (torch does).

    SeparateCell    a product for each gate, as the equations are written
    CombinedCell    the same function with all gates in one product
    PeepholeCell    gates that see the cell state (Gers and Schmidhuber, 2000; Gers et al., 2002)
    LayerNormCell   normalised products and cell state (Ba, Kiros and Hinton, 2016)

Axis letters: B rows, X inputs, H hidden. Stacked parameters hold the gates in the order i, f, g, o, as those of
`torch.nn.LSTM` do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class State(NamedTuple):
    """What a cell passes from step to step."""

    h: Tensor
    """[B, H]"""
    c: Tensor
    """[B, H]"""


class Cell(nn.Module, ABC):
    """One step of an LSTM."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> State:
        """Read x [B, X] in `state`; the new h is the output."""

    def zero_state(self, like: Tensor) -> State:
        """The state before anything was read, for the rows, the type and the device of `like` [B, ...]."""
        zeros = like.new_zeros(len(like), self.hidden_size)
        return State(zeros, zeros)


class SeparateCell(Cell):
    """Four products of [h, x]. Xavier weights; forget bias 1, other biases 0."""

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        shape = (hidden_size, hidden_size + input_size)
        self.w_f, self.w_i, self.w_g, self.w_o = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape))) for _ in range(4)
        )
        self.b_f = nn.Parameter(torch.full((hidden_size,), forget_bias))
        self.b_i, self.b_g, self.b_o = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(3))

    def forward(self, x: Tensor, state: State) -> State:
        z = torch.cat([state.h, x], dim=1)
        f = torch.sigmoid(linear(z, self.w_f, self.b_f))
        i = torch.sigmoid(linear(z, self.w_i, self.b_i))
        g = torch.tanh(linear(z, self.w_g, self.b_g))
        o = torch.sigmoid(linear(z, self.w_o, self.b_o))
        c = f * state.c + i * g
        return State(o * torch.tanh(c), c)


class CombinedCell(Cell):
    """One product of [h, x] for all gates.

    `weight` [4H, H + X] has orthogonal recurrent and Xavier input weights, gate by gate; `bias` [4H] is 1 for the
    forget gate and otherwise 0.
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.weight = nn.Parameter(torch.empty(4 * hidden_size, hidden_size + input_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        for gate in self.weight.data.chunk(4):
            nn.init.orthogonal_(gate[:, :hidden_size])
            nn.init.xavier_uniform_(gate[:, hidden_size:])
        self.bias.data[hidden_size : 2 * hidden_size] = forget_bias

    def forward(self, x: Tensor, state: State) -> State:
        i, f, g, o = self._preactivations(x, state)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        return State(torch.sigmoid(o) * torch.tanh(c), c)

    def _preactivations(self, x: Tensor, state: State) -> tuple[Tensor, ...]:
        """Of i, f, g and o, [B, H] each."""
        return linear(torch.cat([state.h, x], dim=1), self.weight, self.bias).chunk(4, dim=1)


class PeepholeCell(CombinedCell):
    """The gates i and f also see the cell state before the step, o the one after it, each value only its own.

    Gers and Schmidhuber (2000), "Recurrent nets that time and count"; Gers, Schraudolph and Schmidhuber (2002). The
    three peepholes [H] start at zero, where the cell is a `CombinedCell`.
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size, forget_bias=forget_bias)
        self.see_i, self.see_f, self.see_o = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(3))

    def forward(self, x: Tensor, state: State) -> State:
        i, f, g, o = self._preactivations(x, state)
        keep, add = torch.sigmoid(f + self.see_f * state.c), torch.sigmoid(i + self.see_i * state.c)
        c = keep * state.c + add * torch.tanh(g)
        return State(torch.sigmoid(o + self.see_o * c) * torch.tanh(c), c)


class LayerNormCell(Cell):
    """The two products are normalised, each over all gates at once, and the cell state on its way to h.

    Ba, Kiros and Hinton (2016), "Layer Normalization", as in the supplement to the paper. `bias` [4H] is added after
    the normalisation, so that a forget bias stays what it is.
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        for gate in self.weight_hh.data.chunk(4):
            nn.init.orthogonal_(gate)
        for gate in self.weight_ih.data.chunk(4):
            nn.init.xavier_uniform_(gate)
        self.bias.data[hidden_size : 2 * hidden_size] = forget_bias
        self.norm_inputs, self.norm_hidden = nn.LayerNorm(4 * hidden_size), nn.LayerNorm(4 * hidden_size)
        self.norm_cell = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, state: State) -> State:
        stacked = self.norm_inputs(linear(x, self.weight_ih)) + self.norm_hidden(linear(state.h, self.weight_hh))
        i, f, g, o = (stacked + self.bias).chunk(4, dim=1)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        return State(torch.sigmoid(o) * torch.tanh(self.norm_cell(c)), c)
