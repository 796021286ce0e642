"""Graphs of bundles of schema 2, which take and give h and c apart, called as today's graphs, which have `state`.

This is the only place that knows of the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Shapes = Mapping[str, Sequence[Any]]
"""By name: numbers, and strings for sizes that differ from call to call."""


class Graph(Protocol):
    """A graph, to be called by any number of threads."""

    inputs: Shapes
    outputs: Shapes
    weights_sha256: str
    """Of the weights that it was made from; empty where that is not known."""

    def run(self, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """All outputs, in the order of `outputs`."""


def has_h_and_c(graph: Graph) -> bool:
    """Whether it is one of them, a decoder or an inspector."""
    return {"h", "c"} <= graph.inputs.keys() and {"h_out", "c_out"} <= graph.outputs.keys()


class JoinedGraph:
    """An ONNX graph for which `has_h_and_c` holds, as one with `state` and `state_out`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # An inspector tells the state after each token, and time comes first there.
        self._axis = 1 if "T" in graph.outputs["h_out"] else 0
        self.inputs = _joined(graph.inputs, "h", "c", "state", 0)
        self.outputs = _joined(graph.outputs, "h_out", "c_out", "state_out", self._axis)
        self.weights_sha256 = graph.weights_sha256

    def run(self, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """All outputs, in the order of `outputs`."""
        apart = dict(inputs)
        apart["h"], apart["c"] = apart.pop("state")
        found = dict(zip(self._graph.outputs, self._graph.run(apart), strict=True))
        found["state_out"] = np.stack([found["h_out"], found["c_out"]], self._axis)
        return [found[name] for name in self.outputs]


class JoinedModule:
    """A TorchScript decoder with h and c, as one with `state`; `stack` is torch's function."""

    arrays = 2

    def __init__(self, module: Any, stack: Callable[[list[Any]], Any]) -> None:
        self._module, self._stack = module, stack
        self.layers, self.hidden, self.vocabulary = module.layers, module.hidden, module.vocabulary

    def __call__(self, *, state: Any, **others: Any) -> tuple[Any, ...]:
        """As today's decoders are called."""
        tokens, logprob, h, c, *rest = self._module(h=state[0], c=state[1], **others)
        return tokens, logprob, self._stack([h, c]), *rest


def _joined(shapes: Shapes, h: str, c: str, state: str, axis: int) -> Shapes:
    """With one array in the place of two."""
    whole = [*shapes[h][:axis], 2, *shapes[h][axis:]]
    return {state if name == h else name: whole if name == h else shape for name, shape in shapes.items() if name != c}
