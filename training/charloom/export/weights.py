"""The network as the decoders compute it.

Knows: how trained parameters become the few matrices of one decoding step. Does not know: ONNX, TorchScript, files.

Embedding, input weights and biases of layer 1 fold into one table with a row per symbol. Every later layer multiplies
[x, h] with one matrix; where the two products are normalised each by itself, with its two halves. The gates are put in
the order i, f, o, g, so that one sigmoid covers the first three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from charloom.network.layers import ARRAYS, EPSILON, GATES, Layer, LayerNormLayer, PeepholeLayer
from charloom.network.model import CharLSTM

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Norms:
    """Gains of a layer-normalised cell; what its norms shift is in the table and the bias."""

    inputs: Matrix
    """[4H]; in layer 1 the table has it already"""
    recurrent: Matrix
    """[4H]"""
    cell: Matrix
    """[H]"""
    cell_shift: Matrix
    """[H]"""


@dataclass(frozen=True)
class LayerWeights:
    """One layer of one step; H hidden."""

    matrix: Matrix
    """[H, 4H] in layer 1, from its own h; [2H, 4H] in all others, from (the h below, its own h)"""
    bias: Matrix
    """[4H]; zero in layer 1, where the table has it"""
    peepholes: Matrix | None
    """[3, H], of i, f and o"""
    norms: Norms | None


@dataclass(frozen=True)
class DecoderWeights:
    """One decoding step in matrices; H hidden, V vocabulary."""

    arrays: tuple[str, ...]
    """Names of what the cell carries from step to step, [H] each, h first"""
    gates: tuple[str, ...]
    """Names of the cell's gates, in the order in which they are shown"""
    table: Matrix
    """[V, 4H]: what layer 1 adds to its gates for each input symbol"""
    layers: tuple[LayerWeights, ...]
    head: Matrix
    """[H, V]"""
    head_bias: Matrix
    """[V]"""
    zoneout_cell: float
    """The share of the old c in the new one."""
    zoneout_hidden: float
    """The share of the old h in the new one."""

    @property
    def hidden(self) -> int:
        return int(self.head.shape[0])

    @property
    def vocabulary(self) -> int:
        return int(self.table.shape[0])


@torch.no_grad()
def decoder_weights(model: CharLSTM) -> DecoderWeights:
    """Fold and reorder the parameters of a trained model."""
    layers: list[LayerWeights] = []
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        parts = [_gates(layer.weight_ih)] if index else []
        bias = _gates(layer.bias)
        layers.append(
            LayerWeights(
                matrix=_matrix(torch.cat([*parts, _gates(layer.weight_hh)], dim=1).T),
                bias=_matrix(bias if index else bias * 0),
                peepholes=_matrix(_double(layer.see)) if isinstance(layer, PeepholeLayer) else None,
                norms=_norms(layer) if isinstance(layer, LayerNormLayer) else None,
            )
        )
    return DecoderWeights(
        arrays=ARRAYS,
        gates=GATES,
        table=_matrix(_table(model)),
        layers=tuple(layers),
        head=_matrix(_double(model.head.weight).T),
        head_bias=_matrix(_double(model.head.bias)),
        zoneout_cell=model.config.zoneout_cell,
        zoneout_hidden=model.config.zoneout_hidden,
    )


def _table(model: CharLSTM) -> Tensor:
    first = model.layers[0]
    assert isinstance(first, Layer)
    products = _double(model.embedding.weight) @ _gates(first.weight_ih).T
    if isinstance(first, LayerNormLayer):
        products = layer_norm(products, products.shape[1:], _gates(first.gain_ih), None, EPSILON)
    return products + _gates(first.bias)


def _norms(layer: LayerNormLayer) -> Norms:
    return Norms(
        inputs=_matrix(_gates(layer.gain_ih)),
        recurrent=_matrix(_gates(layer.gain_hh)),
        cell=_matrix(_double(layer.gain_c)),
        cell_shift=_matrix(_double(layer.shift_c)),
    )


def _double(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().double()


def _gates(parameter: Tensor) -> Tensor:
    """From the order i, f, g, o to i, f, o, g."""
    i, f, g, o = _double(parameter).chunk(4)
    return torch.cat([i, f, o, g])


def _matrix(tensor: Tensor) -> Matrix:
    return tensor.float().contiguous().numpy()
