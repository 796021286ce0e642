"""Layers of LSTM cells over sequences, in torch: in one direction, in both, and stacked.

Knows: the order of steps and of layers. Does not know: what a cell computes.

Axis letters: B rows, T time, X inputs, H hidden, D directions, L layers. Sequences are [B, T, ...] with `batch_first`
and else [T, B, ...]. As in `torch.nn.LSTM`, states of more than one cell are stacked layer by layer, and within a layer
forwards before backwards: [L * D, B, H].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from charloom.lab.reference.torch_cells import Cell, CombinedCell, State

MakeCell = Callable[[int, int], Cell]
"""A cell of (inputs, hidden)."""


class Layer(nn.Module):
    """A cell over a sequence.

    Args:
        cell: what takes the steps
        batch_first: whether sequences are [B, T, X] or [T, B, X]
        dropout: share of the outputs that are zeroed while training; never of what the next step reads
        backwards: read from the end; outputs stay in the order of the inputs
    """

    def __init__(self, cell: Cell, *, batch_first: bool = True, dropout: float = 0.0, backwards: bool = False) -> None:
        super().__init__()
        self.cell, self.batch_first, self.dropout, self.backwards = cell, batch_first, dropout, backwards

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs over the sequence and the state after the step that was taken last."""
        time = 1 if self.batch_first else 0
        steps = inputs.unbind(time)
        state = self.cell.zero_state(steps[0]) if state is None else state
        outputs = []
        for x in reversed(steps) if self.backwards else steps:
            state = self.cell(x, state)
            outputs.append(state.h)
        if self.backwards:
            outputs.reverse()
        return dropout(torch.stack(outputs, dim=time), self.dropout, self.training), state


class Bidirectional(nn.Module):
    """Two layers over the same sequence, one from each end; their outputs side by side, [..., 2H].

    Schuster and Paliwal (1997). States are [2, B, H].
    """

    def __init__(self, forwards: Cell, backwards: Cell, *, batch_first: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.forwards = Layer(forwards, batch_first=batch_first, dropout=dropout)
        self.backwards = Layer(backwards, batch_first=batch_first, dropout=dropout, backwards=True)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs over the sequence, and both last states: the backward one is after the first input."""
        starts = [None, None] if state is None else _each(state)
        ahead, after = self.forwards(inputs, starts[0])
        back, before = self.backwards(inputs, starts[1])
        return torch.cat([ahead, back], dim=-1), _together([after, before])


class Stacked(nn.Module):
    """L layers, each over the outputs of the one below; dropout between them and not after the last.

    Args:
        input_size, hidden_size, layers: X, H and L
        bidirectional: whether each layer has both directions
        make: the cell of each layer and direction
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layers: int,
        *,
        bidirectional: bool = False,
        batch_first: bool = True,
        dropout: float = 0.0,
        make: MakeCell = CombinedCell,
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.layers = nn.ModuleList()
        for index in range(layers):
            below = input_size if index == 0 else hidden_size * self.directions
            cells = [make(below, hidden_size) for _ in range(self.directions)]
            dropped = dropout if index < layers - 1 else 0.0
            kind = Bidirectional if bidirectional else Layer
            self.layers.append(kind(*cells, batch_first=batch_first, dropout=dropped))

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs of the last layer over the sequence, and the last states of all, [L * D, B, H]."""
        outputs, ends = inputs, list[State]()
        for index, layer in enumerate(self.layers):
            start = None
            if state is not None:
                own = _each(state)[index * self.directions : (index + 1) * self.directions]
                start = own[0] if self.directions == 1 else _together(own)
            outputs, end = layer(outputs, start)
            ends += [end] if self.directions == 1 else _each(end)
        return outputs, _together(ends)


def _each(state: State) -> list[State]:
    """States [N, B, H] as N states [B, H]."""
    return [State(h, c) for h, c in zip(*state, strict=True)]


def _together(states: list[State]) -> State:
    """And back."""
    return State(torch.stack([state.h for state in states]), torch.stack([state.c for state in states]))
