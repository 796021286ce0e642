"""What happens inside a `CharLSTM` while it reads a text: gates, cell states and outputs of each layer at each token.

Axis letters: L layers, T time, H hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charloom.bundle import Tokens
from charloom.network.model import CharLSTM
from charloom.network.trace import trace as trace_layers

Floats = npt.NDArray[np.float32]


class Trace(NamedTuple):
    """One text, read from the zero state; each array [L, T, H]."""

    state: dict[str, Floats]
    """after the token, by name of the state array"""
    gates: dict[str, Floats]
    """by name"""

    @property
    def memory(self) -> Floats:
        """What carries the most from step to step: the cell state, or h of a cell that has no other array."""
        return list(self.state.values())[-1]


def trace(model: CharLSTM, tokens: Tokens) -> Trace:
    """Read tokens [T] in evaluation mode; the gates are those with which each token was read."""
    layers = list(trace_layers(model, torch.from_numpy(tokens)[None]))
    return Trace(
        {name: torch.stack([made.state[name][0] for made in layers]).numpy() for name in model.cell.arrays},
        {name: torch.stack([made.gates[name][0] for made in layers]).numpy() for name in model.cell.gates},
    )
