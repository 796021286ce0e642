"""The decoder on ONNX Runtime, CPU, one thread per call.

Knows: onnxruntime. Does not know: bundles' manifests beyond the one fact it checks, batching.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report usage unless told not to

import onnxruntime

from charloom.controls import INPUTS
from charloom.engine.decoding.decoder import Inputs, Outputs, Shape
from charloom.engine.decoding.state_pool import HostStatePool


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A graph, to be run by one thread per call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A spinning thread would take the time of the event loop and of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxDecoder:
    """`decoder.onnx` or `decoder.int8.onnx` of a bundle.

    Args:
        path: the file
        kind: "onnx-fp32" or "onnx-int8"
    """

    device = "cpu"

    def __init__(self, path: Path, kind: str) -> None:
        self._session = open_session(path)
        self.kind = kind
        inputs = {value.name: value.shape for value in self._session.get_inputs()}
        wanted = [*(name for name in Inputs._fields if name != "sampling"), *INPUTS]
        if list(inputs) != wanted:
            raise ValueError(f"its inputs are {', '.join(inputs)}; the contract has {', '.join(wanted)}")
        layers, _, hidden = inputs["h"]
        self.shape = Shape(layers, hidden, inputs["bias"][1])
        self.weights_sha256: str = self._session.get_modelmeta().custom_metadata_map.get("weights_sha256", "")

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps."""
        return Outputs(*self._session.run(None, inputs.by_name()))

    def state_pool(self) -> HostStatePool:
        """In main memory."""
        return HostStatePool(self.shape)
