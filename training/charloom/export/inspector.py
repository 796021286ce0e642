"""The network laid open, as an ONNX graph: reads tokens and shows the gates, without any sampling.

Knows: the inspector's contract. Does not know: the equations, which are those of the decoders, files.

One row, one `Loop`, one step of the network in its body. It stands beside the decoders, because handing out the gates
would cost them time at every step.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from charloom.export.graph import BOOL, FLOAT, INT64, Axes, Value
from charloom.export.network_graph import NetworkGraph
from charloom.export.weights import DecoderWeights


def build_inspector(weights: DecoderWeights, *, int8: bool, metadata: dict[str, str]) -> onnx.ModelProto:
    """The inspector graph of a model, its matrix products in fp32 or in static int8.

    From tokens [T], at least one, and the state before them, h and c [L, 1, H], to gates [T, L, 4, H] (i, f, g, o),
    c_out and h_out [T, L, H], logits [T, V].
    """
    return _Builder(weights, int8).model(metadata)


class _Builder(NetworkGraph):
    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        layers, hidden, vocabulary = len(self._weights.layers), self._weights.hidden, self._weights.vocabulary
        state: Axes = [layers, 1, hidden]
        inputs: list[Value] = [("tokens", INT64, ["T"]), ("h", FLOAT, state), ("c", FLOAT, state)]
        outputs: list[Value] = [
            ("gates", FLOAT, ["T", layers, 4, hidden]),
            ("c_out", FLOAT, ["T", layers, hidden]),
            ("h_out", FLOAT, ["T", layers, hidden]),
            ("logits", FLOAT, ["T", vocabulary]),
        ]
        carried = [self._op("Gather", part, self._int(layer), axis=0) for part in "hc" for layer in range(layers)]
        steps = self._op("Squeeze", self._op("Shape", "tokens"), self._ints(0))
        true = self._constant("true", True, np.bool_)
        results = self._ops("Loop", len(carried) + len(outputs), steps, true, *carried, body=self._step())
        for (name, *_), gathered in zip(outputs, results[len(carried) :], strict=True):
            self._op("Identity", gathered, name=name)
        return self._finished("charloom_inspector", inputs, outputs, metadata)

    def _step(self) -> onnx.GraphProto:
        layers, hidden = len(self._weights.layers), self._weights.hidden
        row: Axes = [1, hidden]
        h_in, c_in = ([f"{part}_in_{layer}" for layer in range(layers)] for part in "hc")
        with self._subgraph() as nodes:
            token = self._op("Unsqueeze", self._op("Gather", "tokens", "step", axis=0), self._ints(0))
            found, logits = self._network(token, h_in, c_in)
            h, c = [layer.h for layer in found], [layer.c for layer in found]
            gates = self._op("Concat", *[gate for layer in found for gate in layer.gates], axis=0)
            outputs: list[Value] = [
                (self._op("Identity", "continue_in"), BOOL, []),
                *[(name, FLOAT, row) for name in (*h, *c)],
                (self._op("Reshape", gates, self._ints(layers, 4, hidden)), FLOAT, [layers, 4, hidden]),
                (self._op("Concat", *c, axis=0), FLOAT, [layers, hidden]),
                (self._op("Concat", *h, axis=0), FLOAT, [layers, hidden]),
                (self._op("Squeeze", logits, self._ints(0)), FLOAT, [self._weights.vocabulary]),
            ]
        inputs: list[Value] = [("step", INT64, []), ("continue_in", BOOL, [])]
        inputs += [(name, FLOAT, row) for name in (*h_in, *c_in)]
        return helper.make_graph(
            nodes,
            "step",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
        )
