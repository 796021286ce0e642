"""The decoder contract in its plainest form: NumPy, row by row, step by step.

It is slow and obvious, and the fast decoders are tested against it.
Knows: the equations of the cells and the trained parameters by name. Does not know: onnxruntime, torch, graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from charloom.controls import controls
from charloom.engine.decoding.decoder import Floats, Inputs, Outputs, Shape
from charloom.engine.decoding.sampling import Sampling, choose, penalised
from charloom.engine.decoding.state_pool import HostStatePool


def _sigmoid(x: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


def _normed(x: Floats) -> Floats:
    """To mean 0 and variance 1."""
    centred = x - x.mean()
    result: Floats = centred / np.sqrt(np.square(centred).mean() + np.float32(1e-5))
    return result


def _sampling(inputs: Inputs, row: int) -> Sampling:
    asked: dict[str, Any] = {one.option: one.type(inputs.sampling[one.name][row]) for one in controls()}
    return Sampling(**asked)


class NaiveDecoder:
    """The network as it was trained.

    Args:
        weights: the tensors of a bundle's `weights.safetensors`, by name; they tell which cell it is
        zoneout_cell, zoneout_hidden: shares of the old c and h in the new ones
    """

    kind = "naive"
    device = "cpu"
    weights_sha256 = ""

    def __init__(
        self, weights: Mapping[str, Floats], *, zoneout_cell: float = 0.0, zoneout_hidden: float = 0.0
    ) -> None:
        self._weights = weights
        self._zoneout_cell, self._zoneout_hidden = np.float32(zoneout_cell), np.float32(zoneout_hidden)
        layers = sum(name.endswith(".weight_hh") for name in weights)
        vocabulary, hidden = weights["head.weight"].shape
        self.shape = Shape(2, layers, hidden, vocabulary)

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps."""
        steps, rows = inputs.forced.shape
        alternatives = (steps, rows, int(inputs.sampling["top"][0]))
        tokens, top_tokens = np.zeros((steps, rows), np.int64), np.zeros(alternatives, np.int64)
        logprob, top_logprob = np.zeros((steps, rows), np.float32), np.zeros(alternatives, np.float32)
        state = inputs.state.copy()
        for row, token in enumerate(inputs.token):
            sampling = _sampling(inputs, row)
            counts = inputs.sampling["counts"][row].copy()
            for step in range(steps):
                if step >= inputs.steps[row]:
                    tokens[step, row] = token
                    continue
                logits = self._step(int(token), *state[:, :, row])
                token = inputs.forced[step, row]
                if token < 0:
                    wanted = penalised(logits, counts, sampling)
                    token = choose(wanted, float(inputs.uniform[step, row]), sampling, inputs.sampling["bias"][row])
                counts[token] += 1
                largest = logits.max()
                logprobs = logits - largest - np.log(np.exp(logits - largest).sum())
                tokens[step, row], logprob[step, row] = token, logprobs[token]
                top_tokens[step, row] = np.argsort(-logprobs, kind="stable")[: alternatives[2]]
                top_logprob[step, row] = logprobs[top_tokens[step, row]]
        return Outputs(tokens, logprob, state, top_tokens, top_logprob)

    def state_pool(self) -> HostStatePool:
        """In main memory."""
        return HostStatePool(self.shape)

    def _step(self, token: int, h: Floats, c: Floats) -> Floats:
        """One step of one row: updates h and c [L, H] in place, returns the logits [V]."""
        x = self._weights["embedding.weight"][token]
        for layer in range(self.shape.layers):
            h_new, c_new = self._cell(f"layers.{layer}", x, h[layer], c[layer])
            h[layer] = self._zoneout_hidden * h[layer] + (1 - self._zoneout_hidden) * h_new
            c[layer] = self._zoneout_cell * c[layer] + (1 - self._zoneout_cell) * c_new
            x = h[layer]
        logits: Floats = self._weights["head.weight"] @ x + self._weights["head.bias"]
        return logits

    def _cell(self, layer: str, x: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
        """The new h and c [H] of one layer."""
        own = {name.removeprefix(f"{layer}."): value for name, value in self._weights.items() if name.startswith(layer)}
        inputs, recurrent = own["weight_ih"] @ x, own["weight_hh"] @ h
        if "gain_hh" in own:
            inputs, recurrent = _normed(inputs) * own["gain_ih"], _normed(recurrent) * own["gain_hh"]
        i, f, g, o = np.split(inputs + recurrent + own["bias"], 4)
        see_i, see_f, see_o = own.get("see", np.zeros((3, 1), np.float32))
        c = _sigmoid(f + see_f * c) * c + _sigmoid(i + see_i * c) * np.tanh(g)
        seen = _normed(c) * own["gain_c"] + own["shift_c"] if "gain_c" in own else c
        return _sigmoid(o + see_o * c) * np.tanh(seen), c
