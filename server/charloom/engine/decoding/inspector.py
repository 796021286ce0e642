"""The network laid open: a bundle's `inspector.onnx`, which computes what a decoder computes and shows the gates.

Axis letters: T time, A arrays of the cell's state, L layers, G gates, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from charloom.bundle import INSPECTOR_FILE, Bundle, BundleError
from charloom.engine.decoding.decoder import Floats, Ints, Shape
from charloom.engine.decoding.first_steps import Allow, in_time
from charloom.engine.decoding.onnx_decoder import open_graph


class Activations(NamedTuple):
    """What happens while some tokens are read."""

    gates: Floats
    """[T, L, G, H], behind their sigmoid or tanh, in the order in which the manifest names them"""
    state: Floats
    """[T, A, L, H], after each token"""
    logits: Floats
    """[T, V], of what comes after each token"""


class Inspector:
    """`inspector.onnx` of a bundle. Several threads may call it at once; the Python lock is free meanwhile.

    Raises:
        BundleError: the file is not the inspector that the manifest describes.
    """

    def __init__(self, bundle: Bundle) -> None:
        try:
            self._graph = open_graph(bundle.path / INSPECTOR_FILE)
        except Exception as problem:  # the runtime raises many kinds of errors for a file it cannot read
            raise BundleError(bundle.path, f"the file {INSPECTOR_FILE} is not an inspector: {problem}") from problem
        inputs, outputs = list(self._graph.inputs), self._graph.outputs
        if inputs != ["tokens", "state"] or list(outputs) != ["gates", "state_out", "logits"]:
            raise BundleError(
                bundle.path, f"the file {INSPECTOR_FILE} is not an inspector: it maps {inputs} to {list(outputs)}"
            )
        cell = bundle.manifest.cell
        wanted = Shape(len(cell.arrays), cell.layers, cell.hidden_size, bundle.manifest.vocabulary_size)
        _, arrays, layers, hidden = outputs["state_out"]
        shape = Shape(arrays, layers, hidden, outputs["logits"][1])
        if shape != wanted:
            raise BundleError(bundle.path, f"the file {INSPECTOR_FILE} has sizes {shape}, the manifest {wanted}")
        if outputs["gates"][2] != len(cell.gates):
            raise BundleError(
                bundle.path,
                f"the file {INSPECTOR_FILE} shows {outputs['gates'][2]} gates, the manifest names {len(cell.gates)}",
            )
        if self._graph.weights_sha256 != bundle.manifest.weights_sha256:
            raise BundleError(
                bundle.path,
                f"the file {INSPECTOR_FILE} was made from other weights than field weights_sha256 names",
            )

    def run(self, tokens: Ints, state: Floats) -> Activations:
        """Read tokens [T], at least one, from a state [A, L, H]."""
        return Activations(*self._graph.run({"tokens": tokens, "state": state[:, :, None]}))


def check_inspector(bundle: Bundle) -> None:
    """Open the inspector of a bundle that has one, let it read one token, and close it.

    Raises:
        BundleStuck: it does not come to an end.
        BundleError: the file is not the inspector that the manifest describes.
    """
    cell, vocabulary = bundle.manifest.cell, bundle.manifest.vocabulary_size
    arrays, layers, hidden = len(cell.arrays), cell.layers, cell.hidden_size
    wanted = [(1, layers, len(cell.gates), hidden), (1, arrays, layers, hidden), (1, vocabulary)]

    def work(_: Allow) -> None:
        token, state = np.zeros(1, np.int64), np.zeros((arrays, layers, hidden), np.float32)
        sizes = [array.shape for array in Inspector(bundle).run(token, state)]
        if sizes != wanted:
            raise ValueError(f"its outputs have sizes {sizes}, where the manifest has {wanted}")

    in_time(bundle, INSPECTOR_FILE, "is not an inspector", work)
