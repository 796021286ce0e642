"""What a recurrent cell is: the forms of its equations, the arrays of its state, the names of its gates.

A module of this package is one cell, whole. All that is done with a cell (training, the decoders of export, inspection,
studies) takes what it needs from its `Cell`, and no other module branches on which cell it is.

Axis letters: B rows, X inputs, H hidden, P products that are stacked in one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from charloom.network.cells.layer import Layer, Step

Matrix = npt.NDArray[np.float32]
Array = npt.NDArray[np.floating[Any]]

CANDIDATE = "candidate"
"""The gate whose values are from -1 to 1: what is offered to the state. All others are from 0 to 1."""


class Graph(Protocol):
    """Where a cell writes one step for the graph decoders; a value is known by its name, operators are ONNX's."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; returns its output."""

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several outputs; returns them."""

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """A constant, added with its first use."""

    def ints(self, *values: int) -> str:
        """A constant vector of integers."""

    def product(self, activation: str, name: str, matrix: Matrix) -> str:
        """`activation` [B, n] times `matrix` [n, m] -> [B, m], in the graph's precision."""


@dataclass(frozen=True)
class GraphLayer:
    """One layer for which a cell writes a step."""

    name: str
    """What its constants' names begin with"""
    weights: Mapping[str, Matrix]
    """As `Layer.folded` gave them"""
    hidden: int
    """H"""
    below: str | None
    """[B, H]: h of the layer below, ready for `Graph.product`; none in the first layer"""
    own: str
    """[B, H]: the layer's own h before the step, ready for `Graph.product`"""
    added: str
    """[B, PH]: in the first layer `Layer.of_inputs` of the token; in others [PH], their bias"""
    state: tuple[str, ...]
    """[B, H] each: the state arrays before the step"""


class ScriptedStep(nn.Module):
    """One step of a layer for the TorchScript decoder; a subclass has `forward`.

    `forward(below, state)` takes what `Layer.of_inputs` gives for the token in the first layer and the h of the layer
    below in others, [B, PH] or [B, H], and the state arrays; it returns the new ones.

    Args:
        weights: as `Layer.folded` gave them, in float32
        hidden: H
        first: whether it is the first layer
    """

    __constants__: tuple[str, ...] = ("first", "hidden")

    def __init__(self, weights: Mapping[str, Tensor], hidden: int, first: bool) -> None:
        super().__init__()
        self.hidden, self.first = hidden, first
        self.matrix = fixed(weights["matrix"])
        if not first:
            self.bias = fixed(weights["bias"])

    def one_product(self, below: Tensor, h: Tensor) -> Tensor:
        """All products of a step in one, [B, PH]; the function below writes the same into a graph."""
        if self.first:  # a constant to TorchScript, which leaves out the other branch
            return torch.addmm(below, h, self.matrix)
        return torch.addmm(self.bias, torch.cat([below, h], dim=1), self.matrix)


@dataclass(frozen=True)
class Cell:
    """All that the rest of the project knows of a cell."""

    arrays: tuple[str, ...]
    """Names of its state arrays, [B, H] each. The first is h, what the layer above reads; |h| <= 1 always, so that
    matrix products with it can be in int8 with a fixed scale."""
    gates: tuple[str, ...]
    """Names of what a step computes for each unit, from 0 to 1; `CANDIDATE` from -1 to 1."""
    layer: type[Layer]
    """Trains: its equations in torch, over whole sequences, and how its parameters fold into decoding matrices."""
    equations: Callable[[Mapping[str, Array], Array, tuple[Array, ...]], Step[Array]]
    """One step of one row in NumPy, as plain as can be: what the other forms are tested against. From the trained
    parameters by name, x [X] and the state arrays [H]."""
    nodes: Callable[[Graph, GraphLayer], Step[str]]
    """Writes one step into a graph."""
    scripted: type[ScriptedStep]
    """One step of a layer in TorchScript."""


def fixed(value: Tensor) -> nn.Parameter:
    """A weight that is not trained."""
    return nn.Parameter(value, requires_grad=False)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), of the array's own precision."""
    result: Array = 1 / (1 + np.exp(-x))
    return result


def split(x: Array, count: int) -> list[Array]:
    """Equal parts of a vector."""
    return list(np.split(x, count))


def one_product(graph: Graph, layer: GraphLayer) -> str:
    """[B, PH]: [h below, own h] times `weights["matrix"]`, plus what is added: all products of a step in one."""
    both = layer.own if layer.below is None else graph.op("Concat", layer.below, layer.own, axis=1)
    return graph.op("Add", graph.product(both, layer.name, layer.weights["matrix"]), layer.added)
