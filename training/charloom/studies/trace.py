"""What happens inside a `CharLSTM` while it reads a text: gates, cell states and outputs of each layer at each token.

Knows: the model and the equations of its cells' gates. Does not know: runs, text, studies.

Axis letters: L layers, T time, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from charloom.bundle import Tokens
from charloom.training.layers import EPSILON, Layer, LayerNormLayer, LSTMLayer, PeepholeLayer
from charloom.training.model import CharLSTM

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


@torch.no_grad()
def trace(model: CharLSTM, tokens: Tokens) -> Trace:
    """Read tokens [T] one by one in evaluation mode; the gates are those with which each token was read."""
    model.eval()
    x = model.embedding(torch.from_numpy(tokens))  # [T, inputs of the layer]
    parts: list[tuple[Tensor, ...]] = []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        h = c = x.new_zeros(len(tokens) + 1, layer.hidden_size)  # row t is what token t reads
        h, c = h.clone(), c.clone()
        for t in range(len(tokens)):
            _, h[t + 1 : t + 2], c[t + 1 : t + 2] = layer(x[None, t : t + 1], h[t : t + 1], c[t : t + 1])
        parts.append((*_GATES[type(layer)](layer, x, h[:-1], c[:-1]), h[1:], c[1:]))
        x = h[1:]
    return Trace(*(torch.stack(part).numpy() for part in zip(*parts, strict=True)))


def _plain(layer: LSTMLayer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """i, f, g, o [T, H] of a layer that read x [T, X] in the states h, c [T, H]."""
    i, f, g, o = (linear(x, layer.weight_ih) + linear(h, layer.weight_hh) + layer.bias).chunk(4, dim=1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


def _peephole(layer: PeepholeLayer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f, g, o = (linear(x, layer.weight_ih) + linear(h, layer.weight_hh) + layer.bias).chunk(4, dim=1)
    see_i, see_f, see_o = layer.see
    i, f, g = torch.sigmoid(i + see_i * c), torch.sigmoid(f + see_f * c), torch.tanh(g)
    return i, f, g, torch.sigmoid(o + see_o * (f * c + i * g))


def _normalised(layer: LayerNormLayer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    inputs = layer_norm(linear(x, layer.weight_ih), layer.gain_ih.shape, layer.gain_ih, layer.bias, EPSILON)
    product = layer_norm(linear(h, layer.weight_hh), layer.gain_hh.shape, layer.gain_hh, None, EPSILON)
    i, f, g, o = (inputs + product).chunk(4, dim=1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


_GATES: dict[type[Layer], Callable[..., tuple[Tensor, ...]]] = {
    LSTMLayer: _plain,
    PeepholeLayer: _peephole,
    LayerNormLayer: _normalised,
}
