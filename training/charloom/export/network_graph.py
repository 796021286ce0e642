"""One step of the network as ONNX nodes, for each cell: from a token and the old state to the new state and logits.

Knows: the equations, the matrix products in fp32 and static int8. Does not know: loops, sampling.

With the plain cell, the products, the gates and their order are what makes a step fast: one product per layer, one
sigmoid over three gates, and nothing that is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charloom.export.graph import FLOAT, GraphBuilder
from charloom.export.quantize import ACTIVATION_SCALE, ACTIVATION_ZERO_POINT, quantize_columns
from charloom.export.weights import DecoderWeights, LayerWeights, Matrix
from charloom.network.layers import EPSILON


class Step(NamedTuple):
    """Names of what one layer makes of one step, [B, H] each."""

    state: tuple[str, ...]
    """The arrays of the cell, h first"""
    gates: tuple[str, ...]
    """Behind their sigmoid or tanh, in the order of `DecoderWeights.gates`"""


class NetworkGraph(GraphBuilder):
    """A graph builder that can write the network of a model."""

    def __init__(self, weights: DecoderWeights, int8: bool) -> None:
        super().__init__()
        self._weights = weights
        self._int8 = int8

    def _state_names(self) -> list[list[str]]:
        """Names for the state before a step, by layer and array."""
        return [[f"{array}_in_{layer}" for array in self._weights.arrays] for layer in range(len(self._weights.layers))]

    def _flat(self, layers: Sequence[Sequence[str]]) -> list[str]:
        """From names by layer and array to those of the first array of all layers, then of the second."""
        return [name for array in zip(*layers, strict=True) for name in array]

    def _layers_of(self, state: str) -> list[list[str]]:
        """From a state [A, L, B, H] to its parts [B, H], by layer and array."""
        arrays, layers = len(self._weights.arrays), len(self._weights.layers)
        parts = self._op("Reshape", state, self._ints(arrays * layers, -1, self._weights.hidden))
        return [
            [self._op("Gather", parts, self._int(array * layers + layer), axis=0) for array in range(arrays)]
            for layer in range(layers)
        ]

    def _network(self, token: str, old: Sequence[Sequence[str]]) -> tuple[list[Step], str]:
        """One step of all layers and the logits [B, V].

        Args:
            token: [B]
            old: the state before the step, [B, H] each, by layer and array
        """
        steps: list[Step] = []
        recurrent = [self._activation(state[0]) for state in old]
        for index, layer in enumerate(self._weights.layers):
            if index == 0:
                added = self._op("Gather", self._constant("table", self._weights.table), token, axis=0)
                below = None
            else:
                added = self._constant(f"bias_{index}", layer.bias)
                below = self._activation(steps[-1].state[0])
            preactivation = self._preactivation(f"layer_{index}", layer, below, recurrent[index], added)
            steps.append(self._cell(f"layer_{index}", layer, preactivation, *old[index]))
        product = self._product(self._activation(steps[-1].state[0]), "head", self._weights.head)
        return steps, self._op("Add", product, self._constant("head_bias", self._weights.head_bias))

    def _preactivation(self, name: str, layer: LayerWeights, below: str | None, own: str, added: str) -> str:
        """Of all gates, [B, 4H], from the activations of the layer below (none in layer 1) and of the layer itself."""
        if layer.norms is None:
            both = own if below is None else self._op("Concat", below, own, axis=1)
            return self._op("Add", self._product(both, name, layer.matrix), added)
        hidden = self._weights.hidden
        recurrent = self._product(own, f"{name}_hh", layer.matrix[-hidden:])
        added = self._op("Add", self._normed(recurrent, f"{name}_gain_hh", layer.norms.recurrent), added)
        if below is None:
            return added
        inputs = self._product(below, f"{name}_ih", layer.matrix[:hidden])
        return self._op("Add", self._normed(inputs, f"{name}_gain_ih", layer.norms.inputs), added)

    def _normed(self, value: str, name: str, gain: Matrix, *shift: str) -> str:
        return self._op("LayerNormalization", value, self._constant(name, gain), *shift, axis=1, epsilon=EPSILON)

    def _cell(self, name: str, layer: LayerWeights, preactivation: str, h_old: str, c_old: str) -> Step:
        hidden = self._weights.hidden
        if layer.peepholes is None:
            to_sigmoid, to_tanh = self._ops("Split", 2, preactivation, self._ints(3 * hidden, hidden), axis=1)
            sizes = self._ints(hidden, hidden, hidden)
            i, f, o = self._ops("Split", 3, self._op("Sigmoid", to_sigmoid), sizes, axis=1)
        else:
            sizes = self._ints(hidden, hidden, hidden, hidden)
            of_i, of_f, of_o, to_tanh = self._ops("Split", 4, preactivation, sizes, axis=1)
            see_i, see_f, see_o = (
                self._constant(f"{name}_see_{gate}", row) for gate, row in zip("ifo", layer.peepholes, strict=True)
            )
            i = self._op("Sigmoid", self._op("Add", of_i, self._op("Mul", see_i, c_old)))
            f = self._op("Sigmoid", self._op("Add", of_f, self._op("Mul", see_f, c_old)))
        g = self._op("Tanh", to_tanh)
        kept = self._op("Mul", f, c_old)
        c = self._op("Add", kept, self._op("Mul", i, g))
        if layer.peepholes is not None:
            o = self._op("Sigmoid", self._op("Add", of_o, self._op("Mul", see_o, c)))
        seen = c
        if layer.norms is not None:
            shift = self._constant(f"{name}_shift_c", layer.norms.cell_shift)
            seen = self._normed(c, f"{name}_gain_c", layer.norms.cell, shift)
        h = self._op("Mul", o, self._op("Tanh", seen))
        h = self._mixed(h, h_old, self._weights.zoneout_hidden)
        return Step((h, self._mixed(c, c_old, self._weights.zoneout_cell)), (i, f, g, o))

    def _mixed(self, new: str, old: str, share: float) -> str:
        """With this share of what was there before: what zoneout expects."""
        if not share:
            return new
        return self._op("Add", new, self._op("Mul", self._op("Sub", old, new), self._float(share)))

    def _activation(self, h: str) -> str:
        """H as the matrix products take it: as it is, or as uint8 with the fixed scale 1/127."""
        if not self._int8:
            return h
        scale = self._float(ACTIVATION_SCALE)
        return self._op("QuantizeLinear", h, scale, self._constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8))

    def _product(self, activation: str, name: str, matrix: Matrix) -> str:
        """An activation [B, n] times `matrix` [n, m] -> [B, m], float32."""
        if not self._int8:
            return self._op("MatMul", activation, self._constant(name, matrix))
        quantized, scales = quantize_columns(matrix)
        total = self._op(
            "MatMulInteger",
            activation,
            self._constant(name, quantized),
            self._constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8),
        )
        scale = self._constant(f"{name}_scale", scales * np.float32(ACTIVATION_SCALE))
        return self._op("Mul", self._op("Cast", total, to=FLOAT), scale)
