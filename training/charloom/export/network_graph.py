"""One step of the network as ONNX nodes: from a token and the old state to the new state and logits.

The equations are the cell's (`charloom.network.cells`). Here are what surrounds them and the matrix products in fp32
and static int8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charloom.export.graph import FLOAT, GraphBuilder
from charloom.export.quantize import ACTIVATION_SCALE, ACTIVATION_ZERO_POINT, quantize_columns
from charloom.export.weights import DecoderWeights
from charloom.network.cells import Step
from charloom.network.cells.cell import GraphLayer, Matrix


class NetworkGraph(GraphBuilder):
    """A graph builder that can write the network of a model."""

    def __init__(self, weights: DecoderWeights, int8: bool) -> None:
        super().__init__()
        self._weights = weights
        self._int8 = int8

    def _state_names(self) -> list[list[str]]:
        """Names for the state before a step, by layer and array."""
        arrays, layers = self._weights.cell.arrays, range(len(self._weights.layers))
        return [[f"{array}_in_{layer}" for array in arrays] for layer in layers]

    def _flat(self, layers: Sequence[Sequence[str]]) -> list[str]:
        """From names by layer and array to those of the first array of all layers, then of the second."""
        return [name for array in zip(*layers, strict=True) for name in array]

    def _layers_of(self, state: str) -> list[list[str]]:
        """From a state [A, L, B, H] to its parts [B, H], by layer and array."""
        arrays, layers = len(self._weights.cell.arrays), len(self._weights.layers)
        parts = self.op("Reshape", state, self.ints(arrays * layers, -1, self._weights.hidden))
        return [
            [self.op("Gather", parts, self._int(array * layers + layer), axis=0) for array in range(arrays)]
            for layer in range(layers)
        ]

    def _network(self, token: str, old: Sequence[Sequence[str]]) -> list[Step[str]]:
        """One step of all layers, the output layer not among them.

        Args:
            token: [B]
            old: the state before the step, [B, H] each, by layer and array
        """
        steps: list[Step[str]] = []
        recurrent = [self._activation(state[0]) for state in old]
        for index, (layer, state) in enumerate(zip(self._weights.layers, old, strict=True)):
            if index == 0:
                added = self.op("Gather", self.constant("table", self._weights.table), token, axis=0)
                below = None
            else:
                added = self.constant(f"bias_{index}", layer["bias"])
                below = self._activation(steps[-1].state[0])
            own = GraphLayer(
                f"layer_{index}", layer, self._weights.hidden, below, recurrent[index], added, tuple(state)
            )
            made = self._weights.cell.nodes(self, own)
            shares = zip(made.state, state, self._weights.zoneout, strict=True)
            steps.append(Step(tuple(self._mixed(*part) for part in shares), made.gates))
        return steps

    def _logits(self, steps: Sequence[Step[str]]) -> str:
        """[B, V]: the output layer, from the last layer's h."""
        product = self.product(self._activation(steps[-1].state[0]), "head", self._weights.head)
        return self.op("Add", product, self.constant("head_bias", self._weights.head_bias))

    def _mixed(self, new: str, old: str, share: float) -> str:
        """With this share of what was there before: what zoneout expects."""
        if not share:
            return new
        return self.op("Add", new, self.op("Mul", self.op("Sub", old, new), self._float(share)))

    def _activation(self, h: str) -> str:
        """H as the matrix products take it: as it is, or as uint8 with the fixed scale 1/127."""
        if not self._int8:
            return h
        scale = self._float(ACTIVATION_SCALE)
        return self.op("QuantizeLinear", h, scale, self.constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8))

    def product(self, activation: str, name: str, matrix: Matrix) -> str:
        """An activation [B, n] times `matrix` [n, m] -> [B, m], float32."""
        if not self._int8:
            return self.op("MatMul", activation, self.constant(name, matrix))
        quantized, scales = quantize_columns(matrix)
        total = self.op(
            "MatMulInteger",
            activation,
            self.constant(name, quantized),
            self.constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8),
        )
        scale = self.constant(f"{name}_scale", scales * np.float32(ACTIVATION_SCALE))
        return self.op("Mul", self.op("Cast", total, to=FLOAT), scale)
