"""An LSTM layer over one sequence, in float64 NumPy: forward, and backpropagation through time by hand.

Knows: the equations and their derivatives. Does not know: losses, optimisers, batches, torch.

    z = [h; x]    f = σ(W_f z + b_f)    i = σ(W_i z + b_i)    g = tanh(W_g z + b_g)    o = σ(W_o z + b_o)
    c' = f ⊙ c + i ⊙ g    h' = o ⊙ tanh(c')

Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).
Axis letters: T time, X inputs, H hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Parameters = dict[str, Array]

GATES = ("f", "i", "g", "o")
"""Forget, input, candidate, output: the order in which the equations need them."""


class Step(NamedTuple):
    """One step, with all that is made on the way."""

    z: Array
    """[H + X]: the state before the step, and its input"""
    preactivations: dict[str, Array]
    """for each of `GATES` [H]: W z + b"""
    gates: dict[str, Array]
    """likewise, after its nonlinearity"""
    kept: Array
    """[H]: f ⊙ c"""
    added: Array
    """[H]: i ⊙ g"""
    c: Array
    """[H], after the step"""
    h: Array
    """[H], after the step"""


class Trace(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    z: Array
    """[T, H + X]: the state before each step, and its input"""
    gates: dict[str, Array]
    """for each of `GATES` [T, H], after its nonlinearity"""
    h: Array
    """[T + 1, H]: row t is before step t, row t + 1 after it"""
    c: Array
    """[T + 1, H], likewise"""


class Gradients(NamedTuple):
    """Of one scalar, into everything that the layer read."""

    parameters: Parameters
    inputs: Array
    """[T, X]"""
    h0: Array
    """[H]"""
    c0: Array
    """[H]"""


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    half: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return half


def explain_step(parameters: Parameters, x: Array, h: Array, c: Array) -> Step:
    """Read x [X] in the state h, c [H]: each line of the equations with its numbers."""
    z = np.concatenate([h, x])
    preactivations = {gate: parameters[f"w_{gate}"] @ z + parameters[f"b_{gate}"] for gate in GATES}
    gates = {gate: np.tanh(value) if gate == "g" else sigmoid(value) for gate, value in preactivations.items()}
    kept, added = gates["f"] * c, gates["i"] * gates["g"]
    c_after = kept + added
    return Step(z, preactivations, gates, kept, added, c_after, gates["o"] * np.tanh(c_after))


def orthogonal(random: np.random.Generator, rows: int, columns: int) -> Array:
    """A matrix [rows, columns] whose shorter side is orthonormal (Saxe, McClelland and Ganguli, 2014)."""
    long, short = max(rows, columns), min(rows, columns)
    q, r = np.linalg.qr(random.standard_normal((long, short)))
    q = q * np.sign(np.diag(r))  # without it QR prefers some rotations
    matrix: Array = q if rows >= columns else q.T
    return matrix.copy()


def from_stacked(weight_ih: Array, weight_hh: Array, bias: Array) -> Parameters:
    """Parameters from matrices stacked as in torch, [4H, X], [4H, H] and [4H]: gates in the order i, f, g, o."""
    stacked = np.concatenate([weight_hh, weight_ih], axis=1).astype(np.float64)
    weights = dict(zip("ifgo", np.split(stacked, 4), strict=True))
    biases = dict(zip("ifgo", np.split(bias.astype(np.float64), 4), strict=True))
    return {f"w_{gate}": weights[gate] for gate in GATES} | {f"b_{gate}": biases[gate] for gate in GATES}


class LSTM:
    """One layer.

    Each rule of the backward pass that is easily got wrong is a method of one line, so that a test can replace it.

    Args:
        parameters: `w_f`, `w_i`, `w_g`, `w_o` [H, H + X] and `b_f`, `b_i`, `b_g`, `b_o` [H]
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.hidden_size = len(parameters["b_f"])
        self.input_size = parameters["w_f"].shape[1] - self.hidden_size

    @classmethod
    def initialised(
        cls, input_size: int, hidden_size: int, random: np.random.Generator, *, forget_bias: float = 1.0
    ) -> LSTM:
        """Orthogonal weights, gate by gate; biases 0 but for the forget gate's."""
        parameters = {f"w_{gate}": orthogonal(random, hidden_size, hidden_size + input_size) for gate in GATES}
        parameters |= {f"b_{gate}": np.full(hidden_size, forget_bias if gate == "f" else 0.0) for gate in GATES}
        return cls(parameters)

    def forward(self, inputs: Array, h0: Array | None = None, c0: Array | None = None) -> Trace:
        """Read `inputs` [T, X] from the state `h0`, `c0` [H], zeros where not given."""
        steps, hidden = len(inputs), self.hidden_size
        z = np.zeros((steps, hidden + self.input_size))
        gates = {gate: np.zeros((steps, hidden)) for gate in GATES}
        h, c = np.zeros((steps + 1, hidden)), np.zeros((steps + 1, hidden))
        h[0] = 0.0 if h0 is None else h0
        c[0] = 0.0 if c0 is None else c0
        for t in range(steps):
            step = explain_step(self.parameters, inputs[t], h[t], c[t])
            z[t], c[t + 1], h[t + 1] = step.z, step.c, step.h
            for gate in GATES:
                gates[gate][t] = step.gates[gate]
        return Trace(z, gates, h, c)

    def backward(self, trace: Trace, dh: Array, dhn: Array | None = None, dcn: Array | None = None) -> Gradients:
        """Gradients from those into each h after a step, `dh` [T, H], and those into the last state from beyond it.

        `dhn` and `dcn` [H] are what a later part of the sequence found for its own h0 and c0.
        """
        hidden, parameters = self.hidden_size, self.parameters
        gradients = {name: np.zeros_like(value) for name, value in parameters.items()}
        inputs = np.zeros((len(dh), self.input_size))
        dh_next, dc_next = self.nothing_beyond(trace)
        dh_next[...] = dh_next if dhn is None else dhn
        dc_next[...] = dc_next if dcn is None else dcn
        for t in reversed(range(len(dh))):
            f, i, g, o = (trace.gates[gate][t] for gate in GATES)
            c_before, c_after = self.c_before(trace, t), self.c_after(trace, t)
            dh_t = dh[t] + dh_next
            dc = dc_next + dh_t * o * self.cell_slope(c_after)
            into = {"f": dc * c_before, "i": dc * g, "g": dc * i, "o": dh_t * np.tanh(c_after)}
            dz = np.zeros(hidden + self.input_size)
            for gate, d in into.items():
                d = d * self.gate_slope(gate, trace.gates[gate][t])
                gradients[f"w_{gate}"] += np.outer(d, trace.z[t])
                gradients[f"b_{gate}"] += d
                dz += parameters[f"w_{gate}"].T @ d
            dh_next[...], inputs[t] = dz[:hidden], dz[hidden:]
            dc_next[...] = dc * f
        return Gradients(gradients, inputs, dh_next, dc_next)

    def nothing_beyond(self, trace: Trace) -> tuple[Array, Array]:
        """Gradients from beyond the last step when there are none: of the last state's shape."""
        return np.zeros_like(trace.h[-1]), np.zeros_like(trace.c[-1])

    def c_before(self, trace: Trace, t: int) -> Array:
        """The cell state [H] that step t read."""
        state: Array = trace.c[t]
        return state

    def c_after(self, trace: Trace, t: int) -> Array:
        """The cell state [H] that step t made."""
        state: Array = trace.c[t + 1]
        return state

    def cell_slope(self, c: Array) -> Array:
        """The derivative of tanh at c."""
        slope: Array = 1 - np.tanh(c) ** 2
        return slope

    def gate_slope(self, gate: str, value: Array) -> Array:
        """The derivative of a gate's nonlinearity, told by its output: the trace has no preactivations."""
        return 1 - value**2 if gate == "g" else value * (1 - value)
