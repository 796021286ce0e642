"""The decoder contract in its plainest form: NumPy, row by row, step by step.

It is slow and obvious, and the fast decoders are tested against it.
It takes the trained parameters by name and the NumPy equations of the cell, nothing of onnxruntime, torch or graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from charloom.bundle import CellKind
from charloom.controls import ENDED, FREE, controls
from charloom.engine.decoding.adaptation import learn, predict
from charloom.engine.decoding.decoder import Constraints, Floats, Inputs, Outputs, Shape
from charloom.engine.decoding.sampling import Place, Sampling, choose, penalised
from charloom.engine.decoding.state_pool import HostStatePool
from charloom.network.cells import CELLS


def parameters_of(weights: Mapping[str, Floats], layer: int) -> dict[str, Floats]:
    """Those of one layer, by the names that it has for them."""
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _sampling(inputs: Inputs, row: int) -> Sampling:
    asked: dict[str, Any] = {one.option: one.type(inputs.sampling[one.name][row]) for one in controls()}
    return Sampling(**asked)


def _place(constraints: Constraints | None, state: int, step: int, row: int) -> Place | None:
    """Where a row is in its constraint."""
    if constraints is None or state == FREE:
        return None
    allowed = constraints.distance[constraints.next[state]] < constraints.left[row] - step
    return Place(allowed, constraints.distance[state] == 0)


class NaiveDecoder:
    """The network as it was trained.

    Args:
        weights: the tensors of a bundle's `weights.safetensors`, by name
        cell: which cell they are of
        zoneout: of each state array, the share of the old one in the new one; none of any if not given
    """

    kind = "naive"
    device = "cpu"
    weights_sha256 = ""
    lacks: frozenset[str] = frozenset()

    def __init__(
        self,
        weights: Mapping[str, Floats],
        cell: CellKind = CellKind.LSTM,
        zoneout: Sequence[float] = (),
    ) -> None:
        self._weights, self._cell = weights, CELLS[cell]
        self._zoneout = np.array(zoneout or [0.0] * len(self._cell.arrays), np.float32)
        layers = sum(name.endswith(".weight_hh") for name in weights)
        self._layers = [parameters_of(weights, layer) for layer in range(layers)]
        vocabulary, hidden = weights["head.weight"].shape
        self.shape = Shape(len(self._cell.arrays), layers, hidden, vocabulary)

    def run(self, inputs: Inputs) -> Outputs:
        """Run the decoder contract, one step and one row after the other."""
        steps, rows = inputs.forced.shape
        alternatives = (steps, rows, int(inputs.sampling["top"][0]))
        tokens, top_tokens = np.zeros((steps, rows), np.int64), np.zeros(alternatives, np.int64)
        logprob, top_logprob = np.zeros((steps, rows), np.float32), np.zeros(alternatives, np.float32)
        allowed = np.zeros((steps, rows), np.float32)
        taken, automaton = inputs.steps.copy(), np.zeros(rows, np.int64)
        if inputs.constraints is not None:
            automaton = inputs.constraints.state.copy()
        state = inputs.state.copy()
        adaptation = np.zeros((rows, 0), np.float32) if inputs.adaptation is None else inputs.adaptation.state.copy()
        for row, token in enumerate(inputs.token):
            sampling = _sampling(inputs, row)
            counts = inputs.sampling["counts"][row].copy()
            for step in range(steps):
                if step >= inputs.steps[row] or automaton[row] == ENDED:
                    tokens[step, row] = token
                    continue
                after = state[:, :, row].copy()
                logits = self._step(int(token), after)
                prediction = None
                if inputs.adaptation is not None and inputs.adaptation.learns[row]:
                    prediction = predict(logits[None], adaptation[[row]])
                    logits = prediction.logits[0]
                chosen = inputs.forced[step, row]
                if chosen < 0:
                    wanted = penalised(logits, counts, sampling)
                    uniform, bias = float(inputs.uniform[step, row]), inputs.sampling["bias"][row]
                    place = _place(inputs.constraints, automaton[row], step, row)
                    chosen, allowed[step, row] = choose(wanted, uniform, sampling, bias, place)
                    if place is not None and not place.allowed[chosen]:
                        automaton[row], taken[row], tokens[step, row] = ENDED, step, token
                        continue
                    if place is not None and inputs.constraints is not None:
                        automaton[row] = inputs.constraints.next[automaton[row], chosen]
                token = chosen
                state[:, :, row] = after
                if prediction is not None:
                    adaptation[[row]] = learn(adaptation[[row]], prediction, np.array([token]))
                counts[token] += 1
                largest = logits.max()
                logprobs = logits - largest - np.log(np.exp(logits - largest).sum())
                tokens[step, row], logprob[step, row] = token, logprobs[token]
                top_tokens[step, row] = np.argsort(-logprobs, kind="stable")[: alternatives[2]]
                top_logprob[step, row] = logprobs[top_tokens[step, row]]
        return Outputs(tokens, logprob, state, top_tokens, top_logprob, taken, automaton, allowed, adaptation)

    def state_pool(self) -> HostStatePool:
        """In main memory."""
        return HostStatePool(self.shape)

    def _step(self, token: int, state: Floats) -> Floats:
        """One step of one row: updates the state [A, L, H] in place, returns the logits [V]."""
        x = self._weights["embedding.weight"][token]
        for layer in range(self.shape.layers):
            made = self._cell.equations(self._layers[layer], x, tuple(state[:, layer]))
            for array, new, share in zip(state, made.state, self._zoneout, strict=True):
                array[layer] = share * array[layer] + (1 - share) * new
            x = state[0, layer]
        logits: Floats = self._weights["head.weight"] @ x + self._weights["head.bias"]
        return logits
