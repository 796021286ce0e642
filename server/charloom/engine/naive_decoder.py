"""The decoder contract in its plainest form: NumPy, row by row, step by step.

It is slow and obvious, and the fast decoders are tested against it.
Knows: the equations of the LSTM and the trained parameters by name. Does not know: onnxruntime, torch, graphs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from charloom.engine.arena import HostArena
from charloom.engine.decoder import Floats, Inputs, Outputs, Shape
from charloom.engine.sampling import Sampling, choose, penalised


def _sigmoid(x: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


def _sampling(inputs: Inputs, row: int) -> Sampling:
    return Sampling(
        temperature=float(inputs.temperature[row]),
        top_k=int(inputs.top_k[row]),
        top_p=float(inputs.top_p[row]),
        min_p=float(inputs.min_p[row]),
        repetition_penalty=float(inputs.repetition[row]),
        presence_penalty=float(inputs.presence[row]),
        frequency_penalty=float(inputs.frequency[row]),
    )


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
        steps, rows = inputs.forced.shape
        alternatives = (steps, rows, int(inputs.top[0]))
        tokens, top_tokens = np.zeros((steps, rows), np.int64), np.zeros(alternatives, np.int64)
        logprob, top_logprob = np.zeros((steps, rows), np.float32), np.zeros(alternatives, np.float32)
        h, c = inputs.h.copy(), inputs.c.copy()
        for row, token in enumerate(inputs.token):
            sampling = _sampling(inputs, row)
            counts = inputs.counts[row].copy()
            for step in range(steps):
                if step >= inputs.steps[row]:
                    tokens[step, row] = token
                    continue
                logits = self._step(int(token), h[:, row], c[:, row])
                token = inputs.forced[step, row]
                if token < 0:
                    wanted = penalised(logits, counts, sampling)
                    token = choose(wanted, float(inputs.uniform[step, row]), sampling, inputs.bias[row])
                counts[token] += 1
                largest = logits.max()
                logprobs = logits - largest - np.log(np.exp(logits - largest).sum())
                tokens[step, row], logprob[step, row] = token, logprobs[token]
                top_tokens[step, row] = np.argsort(-logprobs, kind="stable")[: alternatives[2]]
                top_logprob[step, row] = logprobs[top_tokens[step, row]]
        return Outputs(tokens, logprob, h, c, top_tokens, top_logprob)

    def arena(self) -> HostArena:
        """In main memory."""
        return HostArena(self.shape)

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
