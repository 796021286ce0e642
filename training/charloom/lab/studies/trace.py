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
    """One text, read from the zero state; each [L, T, H]."""

    i: Floats
    """input gate, in (0, 1): how much is added"""
    f: Floats
    """forget gate, in (0, 1): how much of the cell state stays"""
    g: Floats
    """candidate, in (-1, 1): what is added"""
    o: Floats
    """output gate, in (0, 1): how much is shown"""
    h: Floats
    """after the token"""
    c: Floats
    """after the token"""


def trace(model: CharLSTM, tokens: Tokens) -> Trace:
    """Read tokens [T] in evaluation mode; the gates are those with which each token was read."""
    layers = list(trace_layers(model, torch.from_numpy(tokens)[None]))
    return Trace(*(torch.stack([getattr(made, name)[0] for made in layers]).numpy() for name in Trace._fields))
