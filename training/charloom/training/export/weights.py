"""The network as the decoders compute it.

Knows: how trained parameters become the few matrices of one decoding step. Does not know: ONNX, TorchScript, files.

Embedding, input weights and biases of layer 1 fold into one table with a row per symbol. Every later layer multiplies
[x, h] with one matrix. The gates are put in the order i, f, o, g, so that one sigmoid covers the first three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charloom.training.model import CharLSTM

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DecoderWeights:
    """One decoding step in matrices; H hidden, V vocabulary."""

    table: Matrix
    """[V, 4H]: what layer 1 adds to its gates for each input symbol"""
    recurrent: Matrix
    """[H, 4H]: layer 1, from its own h"""
    upper: tuple[tuple[Matrix, Matrix], ...]
    """for each layer from 2 on: [2H, 4H] from (the h below, its own h), and the bias [4H]"""
    head: Matrix
    """[H, V]"""
    head_bias: Matrix
    """[V]"""

    @property
    def layers(self) -> int:
        return 1 + len(self.upper)

    @property
    def hidden(self) -> int:
        return int(self.recurrent.shape[0])

    @property
    def vocabulary(self) -> int:
        return int(self.table.shape[0])


@torch.no_grad()
def decoder_weights(model: CharLSTM) -> DecoderWeights:
    """Fold and reorder the parameters of a trained model."""
    lstm = model.lstm

    def gates(parameter: Tensor) -> Tensor:
        i, f, g, o = parameter.detach().cpu().double().chunk(4)
        return torch.cat([i, f, o, g])

    def layer(index: int) -> tuple[Tensor, Tensor, Tensor]:
        inputs, recurrent, bias_in, bias_recurrent = (
            gates(getattr(lstm, f"{name}_l{index}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return inputs, recurrent, bias_in + bias_recurrent

    def matrix(tensor: Tensor) -> Matrix:
        return tensor.float().contiguous().numpy()

    inputs, recurrent, bias = layer(0)
    embedding = model.embedding.weight.detach().cpu().double()
    upper = []
    for index in range(1, model.config.layers):
        from_below, from_self, upper_bias = layer(index)
        upper.append((matrix(torch.cat([from_below, from_self], dim=1).T), matrix(upper_bias)))
    return DecoderWeights(
        table=matrix(embedding @ inputs.T + bias),
        recurrent=matrix(recurrent.T),
        upper=tuple(upper),
        head=matrix(model.head.weight.detach().cpu().double().T),
        head_bias=matrix(model.head.bias.detach().cpu().double()),
    )
