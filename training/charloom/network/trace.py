"""What happens inside a `CharLSTM` while it reads: gates, cell states and outputs of each layer at each token.

Axis letters: B rows, T time, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from charloom.network.cells import Layer
from charloom.network.model import CharLSTM


class LayerTrace(NamedTuple):
    """What one layer did; [B, T, H] each, after each token."""

    state: dict[str, Tensor]
    """by name of the array"""
    gates: dict[str, Tensor]
    """by name of the gate"""


@torch.no_grad()
def trace(model: CharLSTM, tokens: Tensor) -> Iterator[LayerTrace]:
    """Read tokens [B, T] from the zero state in evaluation mode.

    Yields:
        One layer after the other; of the layers before, none is kept.
    """
    model.eval()
    x = model.embedding(tokens)
    for layer, state in zip(model.layers, model.zero_state(len(tokens)).unbind(1), strict=True):
        assert isinstance(layer, Layer)
        steps = layer.steps(x, state.unbind(0))
        made = LayerTrace(
            _over_time(model.cell.arrays, [step.state for step in steps]),
            _over_time(model.cell.gates, [step.gates for step in steps]),
        )
        yield made
        x = made.state["h"]


def _over_time(names: Sequence[str], steps: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """From the parts [B, H] of each step to [B, T, H] by name."""
    return {name: torch.stack(parts, dim=1) for name, *parts in zip(names, *steps, strict=True)}
