"""The network laid open: a bundle's `inspector.onnx`, which computes what a decoder computes and shows the gates.

Knows: onnxruntime, the graph's contract. Does not know: texts, sessions, who asks.

Axis letters: T time, L layers, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from charloom.bundle import INSPECTOR_FILE, Bundle, BundleError
from charloom.engine.decoding.decoder import Floats, Ints, Shape
from charloom.engine.decoding.onnx_decoder import open_session


class Activations(NamedTuple):
    """What happens while some tokens are read."""

    gates: Floats
    """[T, L, 4, H]: input gate i, forget gate f, candidate g, output gate o"""
    c: Floats
    """[T, L, H], after each token"""
    h: Floats
    """[T, L, H], after each token"""
    logits: Floats
    """[T, V], of what comes after each token"""


class Inspector:
    """`inspector.onnx` of a bundle. Several threads may call it at once; the Python lock is free meanwhile.

    Raises:
        BundleError: the file is not the inspector that the manifest describes.
    """

    def __init__(self, bundle: Bundle) -> None:
        try:
            self._session = open_session(bundle.path / INSPECTOR_FILE)
        except Exception as problem:  # the runtime raises many kinds of errors for a file it cannot read
            raise BundleError(bundle.path, f"the file {INSPECTOR_FILE} is not an inspector: {problem}") from problem
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        if inputs != ["tokens", "h", "c"] or list(outputs) != ["gates", "c_out", "h_out", "logits"]:
            raise BundleError(
                bundle.path, f"the file {INSPECTOR_FILE} is not an inspector: it maps {inputs} to {list(outputs)}"
            )
        cell = bundle.manifest.cell
        wanted = Shape(cell.layers, cell.hidden_size, bundle.manifest.vocabulary_size)
        _, layers, hidden = outputs["h_out"]
        shape = Shape(layers, hidden, outputs["logits"][1])
        if shape != wanted:
            raise BundleError(bundle.path, f"the file {INSPECTOR_FILE} has sizes {shape}, the manifest {wanted}")
        made_from = self._session.get_modelmeta().custom_metadata_map.get("weights_sha256", "")
        if made_from != bundle.manifest.weights_sha256:
            raise BundleError(
                bundle.path,
                f"the file {INSPECTOR_FILE} was made from other weights than field weights_sha256 names",
            )

    def run(self, tokens: Ints, state: Floats) -> Activations:
        """Read tokens [T], at least one, from a state [2, L, H], h and c."""
        h, c = np.ascontiguousarray(state[:, :, None])
        return Activations(*self._session.run(None, {"tokens": tokens, "h": h, "c": c}))
