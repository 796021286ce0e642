"""The decoder on ONNX Runtime, CPU, one thread per call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report usage unless told not to

import numpy as np
import onnxruntime

from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS, INPUTS
from charloom.controls.adaptation import state_size
from charloom.engine.decoding.automaton import unconstrained
from charloom.engine.decoding.decoder import ROW_AXIS, Inputs, Outputs, Shape, completed, lacking, nobody_learns
from charloom.engine.decoding.earlier_graphs import Graph, JoinedGraph, Shapes, has_h_and_c
from charloom.engine.decoding.onnx_file import check_whole
from charloom.engine.decoding.state_pool import HostStatePool

_ASKED = "logprobs"
"""The input of a graph that takes `Inputs.logprobs`; earlier ones always tell log-probabilities."""


class OnnxGraph:
    """A file's graph, run by one thread per call."""

    def __init__(self, path: Path) -> None:
        self._session = _open(path)
        self.inputs: Shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self.outputs: Shapes = {value.name: value.shape for value in self._session.get_outputs()}
        self.weights_sha256: str = self._session.get_modelmeta().custom_metadata_map.get("weights_sha256", "")

    def run(self, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """All outputs, in the order of `outputs`."""
        found: Sequence[Any] = self._session.run(None, inputs)
        return found


def open_graph(path: Path) -> Graph:
    """A decoder's or inspector's graph, with its state in one array whichever version wrote it.

    Raises:
        ValueError: a tensor of it is in another file.
    """
    check_whole(path)
    graph = OnnxGraph(path)
    return JoinedGraph(graph) if has_h_and_c(graph) else graph


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A spinning thread would take the time of the event loop and of other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is raised, and told by who catches it
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the one that `check_whole` reads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxDecoder:
    """`decoder.onnx` or `decoder.int8.onnx` of a bundle.

    Args:
        path: the file
        kind: "onnx-fp32" or "onnx-int8"
    """

    device = "cpu"

    def __init__(self, path: Path, kind: str) -> None:
        self._graph = open_graph(path)
        self.kind = kind
        inputs = self._graph.inputs
        self.lacks = lacking(inputs)
        self._always_tells = _ASKED not in inputs
        self._constrains = self.lacks.isdisjoint(CONSTRAINT_INPUTS)
        self._learns = self.lacks.isdisjoint(ADAPTATION_INPUTS)
        wanted = [*ROW_AXIS, *INPUTS, *CONSTRAINT_INPUTS, _ASKED, *ADAPTATION_INPUTS]
        left_out = self.lacks | ({_ASKED} if self._always_tells else set())
        if list(inputs) != [name for name in wanted if name not in left_out]:
            raise ValueError(f"its inputs are {', '.join(inputs)}; the contract has {', '.join(wanted)}")
        arrays, layers, _, hidden = inputs["state"]
        self.shape = Shape(arrays, layers, hidden, inputs["bias"][1])
        _check_outputs(self._graph.outputs, self.shape, self._constrains, self._learns)
        self.weights_sha256 = self._graph.weights_sha256

    def run(self, inputs: Inputs) -> Outputs:
        """Run the decoder contract on one batch."""
        arrays = inputs.by_name(self.lacks)
        if not self._always_tells:
            arrays[_ASKED] = np.array(inputs.logprobs)
        if self._constrains:
            constraints = inputs.constraints or unconstrained(len(inputs.token), self.shape.vocabulary)
            arrays |= constraints.by_name()
        if self._learns:
            adaptation = inputs.adaptation
            arrays |= nobody_learns(self.shape.vocabulary) if adaptation is None else adaptation.by_name()
        return completed(inputs, self._graph.run(arrays))

    def state_pool(self) -> HostStatePool:
        """In main memory."""
        return HostStatePool(self.shape)


def _check_outputs(outputs: Shapes, shape: Shape, constrains: bool, learns: bool) -> None:
    """See that a graph gives what the contract has, of sizes that follow from the inputs, before it takes the memory.

    Raises:
        ValueError: it does not.
    """
    sizes: dict[str, list[int | None]] = {
        "tokens": [None] * 2,
        "logprob": [None] * 2,
        "state_out": [*shape[:2], None, shape.hidden],
        "top_tokens": [None] * 3,
        "top_logprob": [None] * 3,
    }
    if constrains:
        sizes |= {"taken": [None], "automaton_out": [None], "allowed": [None] * 2}
    if learns:
        sizes["adaptation_out"] = [None, state_size(shape.vocabulary)]
    if list(outputs) != list(sizes):
        raise ValueError(f"its outputs are {', '.join(outputs)}; the contract has {', '.join(sizes)}")
    for name, wanted in sizes.items():
        told = [size if isinstance(size, int) else None for size in outputs[name]]
        if told != wanted:
            raise ValueError(f"its output {name} has sizes {outputs[name]}, the input state {list(shape[:3])}")
