"""The network laid open, as an ONNX graph: reads tokens and shows the gates, without any sampling.

One row, one `Loop`, one step of the network in its body. It stands beside the decoders, because handing out the gates
would cost them time at every step.
"""

from __future__ import annotations

import numpy as np
import onnx

from charloom.export.graph import BOOL, FLOAT, INT64, Axes, Value
from charloom.export.network_graph import NetworkGraph
from charloom.export.weights import DecoderWeights


def build_inspector(weights: DecoderWeights, *, int8: bool, metadata: dict[str, str]) -> onnx.ModelProto:
    """The inspector graph of a model, its matrix products in fp32 or in static int8.

    From tokens [T], at least one, and the state before them [A, L, 1, H], to gates [T, L, G, H], state_out [T, A, L, H]
    and logits [T, V]; A arrays and G gates of the cell, in the order of `weights`.
    """
    return _Builder(weights, int8).model(metadata)


class _Builder(NetworkGraph):
    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        layers, hidden, vocabulary = len(self._weights.layers), self._weights.hidden, self._weights.vocabulary
        arrays, gates = len(self._weights.cell.arrays), len(self._weights.cell.gates)
        inputs: list[Value] = [("tokens", INT64, ["T"]), ("state", FLOAT, [arrays, layers, 1, hidden])]
        outputs: list[Value] = [
            ("gates", FLOAT, ["T", layers, gates, hidden]),
            ("state_out", FLOAT, ["T", arrays, layers, hidden]),
            ("logits", FLOAT, ["T", vocabulary]),
        ]
        carried = self._flat(self._layers_of("state"))
        steps = self.op("Squeeze", self.op("Shape", "tokens"), self.ints(0))
        true = self.constant("true", True, np.bool_)
        results = self.ops("Loop", len(carried) + len(outputs), steps, true, *carried, body=self._step())
        for (name, *_), gathered in zip(outputs, results[len(carried) :], strict=True):
            self.op("Identity", gathered, name=name)
        return self._finished("charloom_inspector", inputs, outputs, metadata)

    def _step(self) -> onnx.GraphProto:
        layers, hidden = len(self._weights.layers), self._weights.hidden
        arrays, gates = len(self._weights.cell.arrays), len(self._weights.cell.gates)
        row: Axes = [1, hidden]
        old = self._state_names()
        with self._subgraph() as nodes:
            token = self.op("Unsqueeze", self.op("Gather", "tokens", "step", axis=0), self.ints(0))
            found = self._network(token, old)
            logits = self._logits(found)
            state = self._flat([layer.state for layer in found])
            shown = self.op("Concat", *[gate for layer in found for gate in layer.gates], axis=0)
            after = self.op("Concat", *state, axis=0)
            outputs: list[Value] = [
                (self.op("Identity", "continue_in"), BOOL, []),
                *[(name, FLOAT, row) for name in state],
                (self.op("Reshape", shown, self.ints(layers, gates, hidden)), FLOAT, [layers, gates, hidden]),
                (self.op("Reshape", after, self.ints(arrays, layers, hidden)), FLOAT, [arrays, layers, hidden]),
                (self.op("Squeeze", logits, self.ints(0)), FLOAT, [self._weights.vocabulary]),
            ]
        inputs: list[Value] = [("step", INT64, []), ("continue_in", BOOL, [])]
        inputs += [(name, FLOAT, row) for name in self._flat(old)]
        return self._body_of("step", nodes, outputs, inputs)
