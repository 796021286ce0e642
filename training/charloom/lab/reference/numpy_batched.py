"""An LSTM layer over a batch of sequences with one weight matrix, forward and backward, in NumPy.

Knows: arrays; each step is one product. Does not know: losses, optimisers, torch.

The matrix has a row for the bias, then a row per input, then a row per hidden value; its columns are four blocks, of
the gates i, f, o, g, so that one sigmoid covers the first three.

Axis letters: T time, B rows, X inputs, H hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from charloom.lab.reference.numpy_lstm import Array, sigmoid


class Trace(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    weights: Array
    """[1 + X + H, 4H]"""
    read: Array
    """[T, B, 1 + X + H]: what each step multiplied: a one, its inputs, the h before it"""
    gates: Array
    """[T, B, 4H], after the nonlinearities"""
    c: Array
    """[T + 1, B, H]: row t is before step t, row t + 1 after it"""


class Outputs(NamedTuple):
    """What the layer made."""

    h: Array
    """[T, B, H]: after each step"""
    hn: Array
    """[B, H]: after the last, for a later part of the sequences to start from"""
    cn: Array
    """[B, H]"""
    trace: Trace


class Gradients(NamedTuple):
    """Of one scalar, into everything that the layer read."""

    inputs: Array
    """[T, B, X]"""
    weights: Array
    """[1 + X + H, 4H]"""
    h0: Array
    """[B, H]"""
    c0: Array
    """[B, H]"""


def initialise(input_size: int, hidden_size: int, random: np.random.Generator, *, forget_bias: float = 3.0) -> Array:
    """Weights [1 + X + H, 4H] with standard deviation 1 / sqrt(X + H) (Glorot and Bengio, 2010); biases 0 but for f.

    A positive forget bias opens the gate: with 3 it keeps 0.95 of the cell state at first.
    """
    weights: Array = random.standard_normal((1 + input_size + hidden_size, 4 * hidden_size))
    weights /= np.sqrt(input_size + hidden_size)
    weights[0] = 0.0
    weights[0, hidden_size : 2 * hidden_size] = forget_bias
    return weights


def forward(inputs: Array, weights: Array, h0: Array | None = None, c0: Array | None = None) -> Outputs:
    """Read `inputs` [T, B, X] from the states `h0`, `c0` [B, H], zeros where not given."""
    steps, rows, input_size = inputs.shape
    hidden = weights.shape[1] // 4
    read = np.ones((steps, rows, len(weights)))
    gates = np.zeros((steps, rows, 4 * hidden))
    h, c = np.zeros((steps + 1, rows, hidden)), np.zeros((steps + 1, rows, hidden))
    h[0] = 0.0 if h0 is None else h0
    c[0] = 0.0 if c0 is None else c0
    for t in range(steps):
        read[t, :, 1 : 1 + input_size] = inputs[t]
        read[t, :, 1 + input_size :] = h[t]
        preactivation = read[t] @ weights
        gates[t, :, : 3 * hidden] = sigmoid(preactivation[:, : 3 * hidden])
        gates[t, :, 3 * hidden :] = np.tanh(preactivation[:, 3 * hidden :])
        i, f, o, g = np.split(gates[t], 4, axis=1)
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
    return Outputs(h[1:], h[-1], c[-1], Trace(weights, read, gates, c))


def backward(trace: Trace, dh: Array, dhn: Array | None = None, dcn: Array | None = None) -> Gradients:
    """Gradients from those into each step's h, `dh` [T, B, H], and into the last states from beyond them, [B, H].

    `dhn` and `dcn` are what a later part of the sequences found for its own h0 and c0.
    """
    steps, rows, hidden = dh.shape
    input_size = len(trace.weights) - 1 - hidden
    weights, inputs = np.zeros_like(trace.weights), np.zeros((steps, rows, input_size))
    dh_next = np.zeros((rows, hidden)) if dhn is None else dhn
    dc_next = np.zeros((rows, hidden)) if dcn is None else dcn
    for t in reversed(range(steps)):
        i, f, o, g = np.split(trace.gates[t], 4, axis=1)
        squashed = np.tanh(trace.c[t + 1])
        dh_t = dh[t] + dh_next
        dc = dc_next + dh_t * o * (1 - squashed**2)
        into = (dc * g * i * (1 - i), dc * trace.c[t] * f * (1 - f), dh_t * squashed * o * (1 - o), dc * i * (1 - g**2))
        d = np.concatenate(into, axis=1)
        weights += trace.read[t].T @ d
        d_read = d @ trace.weights.T
        inputs[t], dh_next = d_read[:, 1 : 1 + input_size], d_read[:, 1 + input_size :]
        dc_next = dc * f
    return Gradients(inputs, weights, dh_next, dc_next)
