"""Making exported decoders of any model, and calls to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from charloom.bundle import DecoderKind
from charloom.engine.decoder import Decoder, Inputs, Outputs, Shape
from charloom.engine.naive_decoder import NaiveDecoder
from charloom.engine.onnx_decoder import OnnxDecoder
from charloom.engine.torch_decoder import TorchDecoder
from charloom.training.config import ModelConfig
from charloom.training.export.onnx_graph import build_decoder
from charloom.training.export.torchscript import build_torchscript
from charloom.training.export.weights import decoder_weights
from charloom.training.model import CharLSTM


def random_model(layers: int, hidden: int = 24, embedding: int = 10, vocabulary: int = 17) -> CharLSTM:
    """A model whose predictions depend on what it read, as those of a trained model do."""
    torch.manual_seed(layers)
    config = ModelConfig(layers=layers, hidden_size=hidden, embedding_size=embedding, dropout=0)
    model = CharLSTM(vocabulary, config).eval()
    torch.nn.init.normal_(model.embedding.weight)
    torch.nn.init.normal_(model.head.weight, std=4 / hidden**0.5)
    torch.nn.init.normal_(model.head.bias)
    return model


def exported(model: CharLSTM, kind: DecoderKind, directory: Path) -> Decoder:
    """The decoder of a model, written and opened."""
    weights, file = decoder_weights(model), directory / kind.file
    if kind is DecoderKind.TORCHSCRIPT:
        torch.jit.save(build_torchscript(weights), file, _extra_files={"weights_sha256": ""})
        return TorchDecoder(file, "cpu")
    file.write_bytes(build_decoder(weights, int8=kind is DecoderKind.ONNX_INT8, metadata={}).SerializeToString())
    return OnnxDecoder(file, kind.value)


def naive(model: CharLSTM) -> NaiveDecoder:
    return NaiveDecoder({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def one_row(shape: Shape, **given: Any) -> Inputs:
    """A call with one row from the zero state; `given` replaces fields, scalars and [K] lists made into arrays."""
    forced = np.asarray(given.pop("forced"), np.int64)[:, None]
    uniform = np.asarray(given.pop("uniform", np.zeros(len(forced))), np.float32)[:, None]
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "token": 0} | given
    state = np.zeros((shape.layers, 1, shape.hidden), np.float32)
    return Inputs(
        token=np.array([defaults["token"]], np.int64),
        h=state,
        c=state.copy(),
        forced=forced,
        steps=np.array([len(forced)], np.int64),
        uniform=uniform,
        temperature=np.array([defaults["temperature"]], np.float32),
        top_k=np.array([defaults["top_k"]], np.int64),
        top_p=np.array([defaults["top_p"]], np.float32),
        min_p=np.array([defaults["min_p"]], np.float32),
        bias=np.zeros((1, shape.vocabulary), np.float32),
    )


def picked_rows(inputs: Inputs, rows: list[int]) -> Inputs:
    """The call with these rows only, in this order."""
    second = {"h", "c", "forced", "uniform"}
    return Inputs(
        *(
            np.ascontiguousarray(value[:, rows] if name in second else value[rows])
            for name, value in inputs._asdict().items()
        )
    )


def assert_same_rows(left: Outputs, right: Outputs, *, logprob: bool = True) -> None:
    """Bit for bit."""
    for name, one, other in zip(Outputs._fields, left, right, strict=True):
        if logprob or name != "logprob":
            assert np.array_equal(one, other), name
