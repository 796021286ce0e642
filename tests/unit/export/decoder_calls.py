"""Making exported decoders of any model, and calls to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.bundle import CellKind, DecoderKind
from charloom.engine.decoding.decoder import Decoder, Inputs, Outputs, Shape, neutral
from charloom.engine.decoding.invariance import Values
from charloom.engine.decoding.onnx_decoder import OnnxDecoder
from charloom.engine.decoding.torch_decoder import TorchDecoder
from charloom.export.onnx_graph import build_decoder
from charloom.export.torchscript import build_torchscript
from charloom.export.weights import decoder_weights
from charloom.network.cells import CELLS
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from tests.oracles.naive_decoder import NaiveDecoder


def random_model(layers: int, hidden: int = 24, embedding: int = 10, vocabulary: int = 17, **settings: Any) -> CharLSTM:
    """A model whose predictions depend on what it read, as those of a trained model do."""
    torch.manual_seed(layers)
    config = ModelConfig(layers=layers, hidden_size=hidden, embedding_size=embedding, dropout=0, **settings)
    model = CharLSTM(vocabulary, config).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.weight_ih, std=0.5)
        for name, parameter in layer.named_parameters():
            if name.startswith(("gain", "shift", "see", "bias")):
                parameter.data += 0.3 * torch.randn_like(parameter)
    torch.nn.init.normal_(model.embedding.weight)
    torch.nn.init.normal_(model.head.weight, std=4 / hidden**0.5)
    torch.nn.init.normal_(model.head.bias)
    return model


def zoneout_of(cell: CellKind) -> dict[str, float]:
    """Settings with a share for each state array of a cell, not the same for all."""
    return {"zoneout_hidden": 0.1} | ({"zoneout_cell": 0.4} if len(CELLS[cell].arrays) > 1 else {})


def exported(model: CharLSTM, kind: DecoderKind, directory: Path) -> Decoder:
    """The decoder of a model, written and opened."""
    weights, file = decoder_weights(model), directory / kind.file
    if kind is DecoderKind.TORCHSCRIPT:
        torch.jit.save(build_torchscript(weights), file, _extra_files={"weights_sha256": ""})
        return TorchDecoder(file)
    file.write_bytes(build_decoder(weights, int8=kind is DecoderKind.ONNX_INT8, metadata={}).SerializeToString())
    return OnnxDecoder(file, kind.value)


def naive(model: CharLSTM) -> NaiveDecoder:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return NaiveDecoder(weights, model.config.cell, model.config.zoneout)


def one_row(shape: Shape, **given: Any) -> Inputs:
    """A call with one row from the zero state; `given` replaces fields, scalars and [K] lists made into arrays."""
    forced = np.asarray(given.pop("forced"), np.int64)[:, None]
    uniform = np.asarray(given.pop("uniform", np.zeros(len(forced))), np.float32)[:, None]
    fields = neutral(1, shape.vocabulary)
    fields |= {name: np.array([value], fields[name].dtype) for name, value in given.items() if name in fields}
    return Inputs(
        token=np.array([given.get("token", 0)], np.int64),
        state=np.zeros((shape.arrays, shape.layers, 1, shape.hidden), np.float32),
        forced=forced,
        steps=np.array([len(forced)], np.int64),
        uniform=uniform,
        sampling=fields,
    )


def picked_rows(values: Values, rows: list[int]) -> Values:
    """The inputs or outputs of these rows only, in this order."""
    return values.with_rows(lambda array, axis: array.take(rows, axis))


def with_sampling(inputs: Inputs, **arrays: Any) -> Inputs:
    """The call with other arrays for some inputs of the choice of tokens."""
    return inputs._replace(sampling={**inputs.sampling, **arrays})


def assert_same_rows(left: Outputs, right: Outputs, *, logprob: bool = True) -> None:
    """Bit for bit."""
    for name, one, other in zip(Outputs._fields, left, right, strict=True):
        if logprob or name != "logprob":
            assert np.array_equal(one, other), name
