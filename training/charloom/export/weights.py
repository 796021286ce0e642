"""The network as the decoders compute it: trained parameters as the few matrices of one decoding step.

Embedding, input weights and biases of layer 1 fold into one table with a row per symbol. How the parameters of a layer
fold is the cell's: `charloom.network.cells`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from charloom.network.cells import CELLS, Cell, Layer
from charloom.network.cells.cell import Matrix
from charloom.network.cells.layer import double
from charloom.network.model import CharLSTM


@dataclass(frozen=True)
class DecoderWeights:
    """One decoding step in matrices; H hidden, V vocabulary, P products that a layer has stacked in one matrix."""

    cell: Cell
    table: Matrix
    """[V, PH]: what layer 1 adds for each input symbol"""
    layers: tuple[Mapping[str, Matrix], ...]
    """As `Layer.folded` has them"""
    head: Matrix
    """[H, V]"""
    head_bias: Matrix
    """[V]"""
    zoneout: tuple[float, ...]
    """The share of the old array in the new one, for each of the cell's state arrays"""

    @property
    def hidden(self) -> int:
        return int(self.head.shape[0])

    @property
    def vocabulary(self) -> int:
        return int(self.table.shape[0])


@torch.no_grad()
def decoder_weights(model: CharLSTM) -> DecoderWeights:
    """Fold the parameters of a trained model."""
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    return DecoderWeights(
        cell=CELLS[model.config.cell],
        table=_matrix(layers[0].of_inputs(double(model.embedding.weight))),
        layers=tuple(
            {name: _matrix(tensor) for name, tensor in layer.folded(first=index == 0).items()}
            for index, layer in enumerate(layers)
        ),
        head=_matrix(double(model.head.weight).T),
        head_bias=_matrix(double(model.head.bias)),
        zoneout=layers[0].zoneout,
    )


def _matrix(tensor: Tensor) -> Matrix:
    return tensor.float().contiguous().numpy()
