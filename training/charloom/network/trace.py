"""What happens inside a `CharLSTM` while it reads: gates, cell states and outputs of each layer at each token.

Axis letters: B rows, T time, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from charloom.bundle import Tokens
from charloom.network.cells import CANDIDATE, Layer
from charloom.network.model import CharLSTM

BINS = 20
ROWS, LENGTH = 32, 64
"""Of the piece of text on which a run looks at its gates."""


@dataclass(frozen=True)
class Activations:
    """How the values of one gate of one layer are spread over a fixed piece of the validation text."""

    low: float
    """The lowest value that there can be, 0 or -1; the highest is 1."""
    counts: list[int]
    """Of values in equal bins from `low` to 1."""
    near_low: float
    """Share of values less than 0.1 above `low`."""
    near_high: float
    """Share of values above 0.9."""


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


def gate_activations(model: CharLSTM, text: Tokens) -> dict[str, dict[str, Activations]]:
    """How open the gates are on the first tokens of a text [M], by layer (`layer 1` and so on) and kind.

    Kinds are the cell's gates, its `candidate` after them, and `hidden`, which is |h|. The text is read in at most
    `ROWS` rows of `LENGTH` tokens: the same ones each time, so that evaluations can be compared.
    """
    rows = max(1, min(ROWS, len(text) // LENGTH))
    length = min(LENGTH, len(text))
    tokens = torch.from_numpy(np.array(text[: rows * length]).reshape(rows, length)).to(model.head.bias.device)
    kinds = sorted(model.cell.gates, key=lambda name: name == CANDIDATE)
    return {
        f"layer {number}": {kind: _activations(made.gates[kind], -1.0 if kind == CANDIDATE else 0.0) for kind in kinds}
        | {"hidden": _activations(made.state["h"].abs(), 0.0)}
        for number, made in enumerate(trace(model, tokens), start=1)
    }


def _activations(values: Tensor, low: float) -> Activations:
    """Counts of values between `low` and 1, and the shares in the outermost tenth next to 0 or -1, and next to 1."""
    found = values.float().cpu().numpy().ravel()
    counts, _ = np.histogram(found, bins=BINS, range=(low, 1.0))
    return Activations(
        low=low,
        counts=[int(count) for count in counts],
        near_low=round(float(np.mean(found < low + 0.1)), 4),
        near_high=round(float(np.mean(found > 0.9)), 4),
    )
