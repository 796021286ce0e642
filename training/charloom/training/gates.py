"""How open the gates of a model are, on a piece of the validation text that is the same at each evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charloom.network.cells import CANDIDATE
from charloom.network.model import CharLSTM
from charloom.network.trace import trace
from charloom.training.data.stream import Stream

_BINS = 20
_ROWS, _LENGTH = 32, 64
"""How the piece is read."""


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


def gate_activations(model: CharLSTM, text: Stream) -> dict[str, dict[str, Activations]]:
    """How open the gates are on the first tokens of a text, by layer (`layer 1` and so on) and kind.

    Kinds are the cell's gates, its `candidate` after them, and `hidden`, which is |h|. The text is read in at most
    32 rows of 64 tokens, documents or not: the same ones each time, so that evaluations can be compared.
    """
    rows = max(1, min(_ROWS, len(text) // _LENGTH))
    length = min(_LENGTH, len(text))
    tokens = torch.from_numpy(text[: rows * length].reshape(rows, length)).to(model.head.bias.device)
    kinds = sorted(model.cell.gates, key=lambda name: name == CANDIDATE)
    return {
        f"layer {number}": {kind: _activations(made.gates[kind], -1.0 if kind == CANDIDATE else 0.0) for kind in kinds}
        | {"hidden": _activations(made.state["h"].abs(), 0.0)}
        for number, made in enumerate(trace(model, tokens), start=1)
    }


def _activations(values: Tensor, low: float) -> Activations:
    """Counts of values between `low` and 1, and the shares in the outermost tenth next to 0 or -1, and next to 1."""
    found = values.float().cpu().numpy().ravel()
    counts, _ = np.histogram(found, bins=_BINS, range=(low, 1.0))
    return Activations(
        low=low,
        counts=[int(count) for count in counts],
        near_low=round(float(np.mean(found < low + 0.1)), 4),
        near_high=round(float(np.mean(found > 0.9)), 4),
    )
