"""The decoder contract in its plainest form: NumPy, row by row, step by step.

It is slow and obvious, and the fast decoders are tested against it.
Knows: the equations of the LSTM and the trained parameters by name. Does not know: onnxruntime, torch, graphs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from charloom.engine.decoder import Floats, Inputs, Outputs, Shape
from charloom.engine.sampling import Sampling, choose


def _sigmoid(x: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


class NaiveDecoder:
    """The network as it was trained.

    Args:
        weights: the tensors of a bundle's `weights.safetensors`, by name
    """

    kind = "naive"
    device = "cpu"
    weights_sha256 = ""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = weights
        layers = sum(name.startswith("lstm.weight_hh") for name in weights)
        vocabulary, hidden = weights["head.weight"].shape
        self.shape = Shape(layers, hidden, vocabulary)

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps."""
        tokens = np.zeros(inputs.forced.shape, np.int64)
        logprob = np.zeros(inputs.forced.shape, np.float32)
        h, c = inputs.h.copy(), inputs.c.copy()
        for row, token in enumerate(inputs.token):
            sampling = Sampling(
                float(inputs.temperature[row]),
                int(inputs.top_k[row]),
                float(inputs.top_p[row]),
                float(inputs.min_p[row]),
            )
            for step in range(len(inputs.forced)):
                if step >= inputs.steps[row]:
                    tokens[step, row] = token
                    continue
                logits = self._step(int(token), h[:, row], c[:, row])
                token = inputs.forced[step, row]
                if token < 0:
                    token = choose(logits, float(inputs.uniform[step, row]), sampling, inputs.bias[row])
                tokens[step, row] = token
                largest = logits.max()
                logprob[step, row] = logits[token] - largest - np.log(np.exp(logits - largest).sum())
        return Outputs(tokens, logprob, h, c)

    def _step(self, token: int, h: Floats, c: Floats) -> Floats:
        """One step of one row: updates h and c [L, H] in place, returns the logits [V]."""
        weights = self._weights
        x = weights["embedding.weight"][token]
        for layer in range(self.shape.layers):
            preactivation = (
                weights[f"lstm.weight_ih_l{layer}"] @ x
                + weights[f"lstm.bias_ih_l{layer}"]
                + weights[f"lstm.weight_hh_l{layer}"] @ h[layer]
                + weights[f"lstm.bias_hh_l{layer}"]
            )
            i, f, g, o = np.split(preactivation, 4)
            c[layer] = _sigmoid(f) * c[layer] + _sigmoid(i) * np.tanh(g)
            h[layer] = _sigmoid(o) * np.tanh(c[layer])
            x = h[layer]
        logits: Floats = weights["head.weight"] @ x + weights["head.bias"]
        return logits
