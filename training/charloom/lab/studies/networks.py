"""The small networks of the memory studies: one recurrent layer and a linear one, reading symbols as one-hot vectors.

    rnn              tanh, torch's default initialisation
    rnn-orthogonal   tanh, orthogonal recurrent weights (Saxe et al., 2014)
    lstm-0           forget bias 0: the gate starts half open, as torch's own LSTM does
    lstm-1           forget bias 1 (Jozefowicz et al., 2015; Gers et al., 2000)
    lstm-chrono      forget bias log U(1, S - 1), input bias its negative, for memories of up to S steps
                     (Tallec and Ollivier, 2018, "Can recurrent neural networks warp time?")
    lstm-mixed       half of the units as in lstm-chrono, to remember; half as in lstm-1, to tell what came when

Axis letters: B rows, T time, X inputs, H hidden.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from charloom.lab.reference.torch_cells import Cell, CombinedCell, State

Kind = Literal["rnn", "rnn-orthogonal", "lstm-0", "lstm-1", "lstm-chrono", "lstm-mixed"]


class Network(nn.Module):
    """A recurrent layer over symbols, and logits from its h.

    Args:
        kind: which layer, and how it starts
        inputs, hidden, outputs: X, H and the number of symbols to choose from
        span: the steps S over which something is to be remembered; for chrono alone
    """

    def __init__(self, kind: Kind, inputs: int, hidden: int, outputs: int, span: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.layer: nn.RNN | nn.LSTM
        if kind.startswith("rnn"):
            self.layer = nn.RNN(inputs, hidden, batch_first=True)
            if kind == "rnn-orthogonal":
                _initialise(self.layer, gates=1)
        else:
            self.layer = nn.LSTM(inputs, hidden, batch_first=True)
            _initialise(self.layer, gates=4)
            self._set_time_scales(kind, span)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits [B, T, outputs] after each of the symbols [B, T]."""
        outputs, _ = self.layer(self.encoded(symbols))
        logits: Tensor = self.head(outputs)
        return logits

    def encoded(self, symbols: Tensor) -> Tensor:
        """One-hot vectors [B, T, X]."""
        return one_hot(symbols, self.inputs).to(self.head.weight.dtype)

    def cell(self) -> Cell:
        """The layer as a cell that takes one step, with copies of its weights."""
        hidden = self.layer.hidden_size
        weight_ih, weight_hh, bias_ih, bias_hh = self.layer.all_weights[0]
        weights, bias = torch.cat([weight_hh, weight_ih], dim=1).detach(), (bias_ih + bias_hh).detach()
        cell = (CombinedCell if isinstance(self.layer, nn.LSTM) else TanhCell)(self.inputs, hidden).to(weights.dtype)
        cell.load_state_dict({"weight": weights, "bias": bias})
        return cell

    def parameter_count(self) -> int:
        """Number of trained values. Both layers have two biases, as torch's have."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _set_time_scales(self, kind: Kind, span: int) -> None:
        hidden = self.layer.hidden_size
        bias = self.layer.all_weights[0][2].data
        bias[hidden : 2 * hidden] = 0.0 if kind == "lstm-0" else 1.0
        if kind in ("lstm-chrono", "lstm-mixed"):
            units = slice(0, hidden if kind == "lstm-chrono" else hidden // 2)
            chrono = torch.log(1 + torch.rand(hidden) * max(0, span - 2))[units]
            inputs, forget, *_ = bias.chunk(4)
            inputs[units], forget[units] = -chrono, chrono


class TanhCell(Cell):
    """One step of the vanilla RNN: h' = tanh(W [h; x] + b). It has no c and hands on the one that it gets."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight = nn.Parameter(torch.zeros(hidden_size, hidden_size + input_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor, state: State) -> State:
        return State(torch.tanh(linear(torch.cat([state.h, x], dim=1), self.weight, self.bias)), state.c)


def _initialise(layer: nn.RNN | nn.LSTM, gates: int) -> None:
    """Orthogonal recurrent and Xavier input weights, gate by gate; biases 0."""
    weight_ih, weight_hh, *biases = layer.all_weights[0]
    for gate in weight_hh.data.chunk(gates):
        nn.init.orthogonal_(gate)
    for gate in weight_ih.data.chunk(gates):
        nn.init.xavier_uniform_(gate)
    for bias in biases:
        nn.init.zeros_(bias)
