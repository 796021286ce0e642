"""The production model and the exported decoders against the NumPy layer on the same weights.

None of the LSTM code is shared: the layer's gates are four products of [h; x], and its gradients are derived by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from charloom.bundle import Bundle, DecoderKind, Tokens
from charloom.engine.decoding.decoder import Decoder
from charloom.lab.reference.numerical import disagreement
from charloom.lab.reference.numpy_language_model import log_softmax
from charloom.lab.reference.numpy_lstm import LSTM, Array, Trace, from_stacked
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_trained
from charloom.training.run_directory import load_validation
from tests.unit.export.decoder_calls import one_row, random_model

Weights = Mapping[str, NDArray[np.floating]]
TOKENS = 600


class Reading(NamedTuple):
    """What the NumPy layers make of a text."""

    logits: Array
    """[T, V]"""
    layers: list[LSTM]
    traces: list[Trace]


def read(weights: Weights, tokens: Tokens, h: Array | None = None, c: Array | None = None) -> Reading:
    """Embedding, stacked layers and output layer of a trained model, in float64, from the state h, c [L, H]."""
    x = weights["embedding.weight"][tokens].astype(np.float64)
    layers, traces = [], []
    for index in range(sum(name.endswith(".weight_hh") for name in weights)):
        weight_ih, weight_hh, bias = (weights[f"layers.{index}.{name}"] for name in ("weight_ih", "weight_hh", "bias"))
        layers.append(LSTM(from_stacked(weight_ih, weight_hh, bias.astype(np.float64))))
        traces.append(layers[-1].forward(x, None if h is None else h[index], None if c is None else c[index]))
        x = traces[-1].h[1:]
    logits = x @ weights["head.weight"].T.astype(np.float64) + weights["head.bias"]
    return Reading(logits, layers, traces)


def weights_of(model: CharLSTM) -> Weights:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def random_tokens(count: int, vocabulary: int) -> Tokens:
    return np.random.default_rng(count).integers(vocabulary, size=count)


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 2e-5), (torch.float64, 1e-11)], ids=["float32", "float64"]
)
LAYERS = pytest.mark.parametrize("layers", [1, 2, 3])


@LAYERS
@PRECISIONS
def test_the_model_s_logits_and_state_are_those_of_the_oracle(layers: int, dtype: torch.dtype, close: float) -> None:
    model = random_model(layers).to(dtype)
    random = np.random.default_rng(layers)
    tokens = random_tokens(80, model.vocabulary_size)
    h, c = random.uniform(-1, 1, (layers, 24)), random.standard_normal((layers, 24))
    start = torch.from_numpy(np.stack([h, c]))[:, :, None].to(dtype)
    with torch.no_grad():
        logits, end = model(torch.from_numpy(tokens)[None], start)
    found = read(weights_of(model), tokens, h, c)
    np.testing.assert_allclose(logits[0].numpy(), found.logits, atol=close, rtol=0)
    assert end.dtype == dtype
    for layer, trace in enumerate(found.traces):
        np.testing.assert_allclose(end[0, layer, 0].numpy(), trace.h[-1], atol=min(close, 1e-6))
        np.testing.assert_allclose(end[1, layer, 0].numpy(), trace.c[-1], atol=min(close, 1e-5))


def test_a_trained_model_s_losses_are_those_of_the_oracle(run_directory: Path) -> None:
    model = load_trained(run_directory).model.eval()
    tokens = load_validation(run_directory)[: TOKENS + 1]
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(tokens[:-1])[None], model.zero_state(1))
    found = log_softmax(read(weights_of(model), tokens[:-1]).logits)
    np.testing.assert_allclose(logits[0].log_softmax(-1).numpy(), found, atol=1e-5)
    loss = -found[np.arange(TOKENS), tokens[1:]].mean()
    assert 1 < loss < 3
    expected = torch.nn.functional.cross_entropy(logits[0], torch.from_numpy(tokens[1:]))
    assert float(expected) == pytest.approx(loss, abs=1e-6)


@LAYERS
def test_the_model_s_gradients_are_those_derived_by_hand(layers: int) -> None:
    """Of the summed cross-entropy, through all layers, into every parameter; in float64, to eleven digits."""
    model = random_model(layers).double()
    tokens = random_tokens(41, model.vocabulary_size)
    zero = model.zero_state(1).double()
    logits, _ = model(torch.from_numpy(tokens[:-1])[None], zero)
    torch.nn.functional.cross_entropy(logits[0], torch.from_numpy(tokens[1:]), reduction="sum").backward()

    reading = read(weights_of(model), tokens[:-1])
    dv = np.exp(log_softmax(reading.logits))
    dv[np.arange(40), tokens[1:]] -= 1
    expected = {"head.weight": dv.T @ reading.traces[-1].h[1:], "head.bias": dv.sum(axis=0)}
    into = dv @ weights_of(model)["head.weight"]
    for index in reversed(range(layers)):
        back = reading.layers[index].backward(reading.traces[index], into)
        weight = np.concatenate([back.parameters[f"w_{gate}"] for gate in "ifgo"])
        recurrent, inputs = np.split(weight, [24], axis=1)
        bias = np.concatenate([back.parameters[f"b_{gate}"] for gate in "ifgo"])
        expected |= {f"layers.{index}.weight_hh": recurrent, f"layers.{index}.weight_ih": inputs}
        expected[f"layers.{index}.bias"] = bias
        into = back.inputs
    expected["embedding.weight"] = np.zeros((model.vocabulary_size, 10))
    np.add.at(expected["embedding.weight"], tokens[:-1], into)
    named = dict(model.named_parameters())
    assert named.keys() == expected.keys()
    for name, parameter in named.items():
        assert parameter.grad is not None
        assert disagreement(parameter.grad.numpy(), expected[name]) < 1e-11, name


@pytest.fixture(scope="module")
def text(run_directory: Path) -> Tokens:
    return load_validation(run_directory)[: TOKENS + 1]


@pytest.fixture(scope="module")
def oracle(bundle: Bundle, text: Tokens) -> Reading:
    """From the file that the bundle's decoders were made of."""
    return read(load_file(bundle.path / "weights.safetensors"), text[:-1])


class Allowed(NamedTuple):
    """How far a decoder may be from the oracle over `TOKENS` tokens."""

    logprob: float
    """of any one token, nats"""
    mean: float
    """of the text, nats per token"""
    h: float
    """of any value, which is between -1 and 1"""
    c: float
    """of any value, relative to the layer's largest"""


ALLOWED = {
    DecoderKind.ONNX_FP32: Allowed(1e-5, 1e-6, 1e-5, 1e-5),
    DecoderKind.TORCHSCRIPT: Allowed(1e-5, 1e-6, 1e-5, 1e-5),
    # h in steps of 1/127, each column of weights in 127 steps: what a step rounds, the carried state keeps
    DecoderKind.ONNX_INT8: Allowed(0.25, 0.005, 0.05, 0.03),
}


@pytest.mark.parametrize("kind", DecoderKind, ids=lambda kind: kind.value)
def test_a_decoder_s_log_probabilities_and_state_are_those_of_the_oracle(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder], oracle: Reading, text: Tokens
) -> None:
    found = decoders[kind].run(one_row(decoders[kind].shape, token=int(text[0]), forced=text[1:]))
    logprob = found.logprob[:, 0].astype(np.float64)
    expected = log_softmax(oracle.logits)[np.arange(TOKENS), text[1:]]
    allowed = ALLOWED[kind]
    np.testing.assert_allclose(logprob, expected, atol=allowed.logprob, rtol=0)
    assert logprob.mean() == pytest.approx(expected.mean(), abs=allowed.mean)
    for layer, trace in enumerate(oracle.traces):
        np.testing.assert_allclose(found.state[0, layer, 0], trace.h[-1], atol=allowed.h, rtol=0)
        assert disagreement(found.state[1, layer, 0].astype(np.float64), trace.c[-1]) < allowed.c
