"""Steps of two other LSTMs as plain equations in NumPy, for the torch cells to be compared with.

Knows: one step forward. Does not know: gradients, torch.

Axis letters: B rows, X inputs, H hidden. Stacked parameters hold the gates in the order i, f, g, o.
"""

from __future__ import annotations

import numpy as np

from charloom.lab.reference.numpy_lstm import Array, sigmoid

EPSILON = 1e-5
"""Added to the variance in layer normalisation."""


def peephole_step(
    x: Array, h: Array, c: Array, weights: Array, bias: Array, peepholes: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """The gates see the cell: i and f the state before the step, o the state after it.

    Gers and Schmidhuber (2000), "Recurrent nets that time and count".

    Args:
        x, h, c: [B, X], [B, H] and [B, H]
        weights, bias: [4H, H + X] over [h, x], and [4H]
        peepholes: of i, f and o, [H] each

    Returns:
        h and c after the step.
    """
    i, f, g, o = np.split(np.concatenate([h, x], axis=1) @ weights.T + bias, 4, axis=1)
    see_i, see_f, see_o = peepholes
    c_after = sigmoid(f + see_f * c) * c + sigmoid(i + see_i * c) * np.tanh(g)
    return sigmoid(o + see_o * c_after) * np.tanh(c_after), c_after


def layer_norm(x: Array, gain: Array, shift: Array) -> Array:
    """Each row [B, N] to mean 0 and variance 1, then times `gain` [N] plus `shift` [N]."""
    centred = x - x.mean(axis=1, keepdims=True)
    result: Array = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + EPSILON) * gain + shift
    return result


def layer_norm_step(
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array,
    norms: tuple[tuple[Array, Array], tuple[Array, Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    """Both products are normalised, each over all four gates at once, and so is the cell state on its way to h.

    Ba, Kiros and Hinton (2016), "Layer Normalization", as in the supplement to the paper.

    Args:
        x, h, c: [B, X], [B, H] and [B, H]
        weight_ih, weight_hh, bias: [4H, X], [4H, H] and [4H]
        norms: gain and shift of the inputs' product [4H], of the recurrent product [4H], and of the cell state [H]

    Returns:
        h and c after the step; c itself is not normalised.
    """
    of_inputs, of_hidden, of_cell = norms
    stacked = layer_norm(x @ weight_ih.T, *of_inputs) + layer_norm(h @ weight_hh.T, *of_hidden) + bias
    i, f, g, o = np.split(stacked, 4, axis=1)
    c_after = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(layer_norm(c_after, *of_cell)), c_after
