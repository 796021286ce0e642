"""What happens inside a `CharLSTM` while it reads: gates, cell states and outputs of each layer at each token.

Knows: the model and its layers. Does not know: the equations of the gates (`layers`), runs, what is made of them.

Axis letters: B rows, T time, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charloom.bundle import Tokens
from charloom.network.layers import Layer, Step
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


@torch.no_grad()
def trace(model: CharLSTM, tokens: Tensor) -> Iterator[Step]:
    """Read tokens [B, T] from the zero state in evaluation mode.

    Yields:
        For one layer after the other h, c, i, f, g and o, each [B, T, H]; of the layers before, none is kept.
    """
    model.eval()
    x = model.embedding(tokens)
    for layer, h, c in zip(model.layers, *model.zero_state(len(tokens)), strict=True):
        assert isinstance(layer, Layer)
        made = Step(*(torch.stack(part, dim=1) for part in zip(*layer.steps(x, h, c), strict=True)))
        yield made
        x = made.h


def gate_activations(model: CharLSTM, text: Tokens) -> dict[str, dict[str, Activations]]:
    """How open the gates are on the first tokens of a text [M], by layer (`layer 1` and so on) and kind.

    Kinds are the gates `input`, `forget` and `output`, the `candidate`, and `hidden`, which is |h|. The text is read in
    at most `ROWS` rows of `LENGTH` tokens: the same ones each time, so that evaluations can be compared.
    """
    rows = max(1, min(ROWS, len(text) // LENGTH))
    length = min(LENGTH, len(text))
    tokens = torch.from_numpy(np.array(text[: rows * length]).reshape(rows, length)).to(model.head.bias.device)
    return {
        f"layer {number}": {
            "input": _activations(made.i, 0.0),
            "forget": _activations(made.f, 0.0),
            "output": _activations(made.o, 0.0),
            "candidate": _activations(made.g, -1.0),
            "hidden": _activations(made.h.abs(), 0.0),
        }
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
