"""From trained parameters to the matrices of a decoder: folding and quantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from charloom.export.quantize import ACTIVATION_SCALE, WEIGHT_LIMIT, quantize_columns
from charloom.export.weights import DecoderWeights, decoder_weights
from charloom.network.cells.cell import Matrix
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM


def model_of(layers: int, tie_weights: bool = False) -> CharLSTM:
    torch.manual_seed(layers)
    sizes = {"layers": layers, "hidden_size": 12, "embedding_size": 12 if tie_weights else 5, "dropout": 0.5}
    model = CharLSTM(9, ModelConfig.model_validate(sizes | {"tie_weights": tie_weights})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def one_step(weights: DecoderWeights, token: NDArray[np.int64], h: Matrix, c: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """A decoding step as the folded matrices mean it; gates in the order i, f, o, g."""

    def sigmoid(x: Matrix) -> Matrix:
        return 1 / (1 + np.exp(-x))

    h, c = h.copy(), c.copy()
    below = None
    for layer, own in enumerate(weights.layers):
        if layer == 0:
            gates = weights.table[token] + h[0] @ own["matrix"]
        else:
            gates = np.concatenate([below, h[layer]], axis=1) @ own["matrix"] + own["bias"]
        i, f, o, g = np.split(gates, 4, axis=1)
        c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
        below = h[layer] = sigmoid(o) * np.tanh(c[layer])
    return below @ weights.head + weights.head_bias, h, c


@pytest.mark.parametrize(("layers", "tied"), [(1, False), (2, False), (3, False), (2, True)])
def test_folded_weights_make_the_step_of_the_model(layers: int, tied: bool) -> None:
    model, random = model_of(layers, tied), np.random.default_rng(layers)
    weights = decoder_weights(model)
    assert (len(weights.layers), weights.hidden, weights.vocabulary) == (layers, 12, 9)
    token = random.integers(9, size=6)
    h = random.uniform(-1, 1, (layers, 6, 12)).astype(np.float32)
    c = random.normal(0, 1, (layers, 6, 12)).astype(np.float32)
    logits, h_after, c_after = one_step(weights, token, h, c)
    state = torch.from_numpy(np.stack([h, c]))
    with torch.no_grad():
        expected, after = model(torch.from_numpy(token)[:, None], state)
    np.testing.assert_allclose(logits, expected[:, 0].numpy(), atol=2e-5)
    np.testing.assert_allclose(np.stack([h_after, c_after]), after.numpy(), atol=1e-5)


def test_folding_leaves_the_model_as_it_was() -> None:
    model = model_of(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = decoder_weights(model)
    upper = weights.layers[1]
    for array in (weights.table, weights.head, weights.head_bias, upper["matrix"], upper["bias"]):
        assert array.dtype == np.float32
        array[...] = 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


MATRICES = st.tuples(st.integers(1, 20), st.integers(1, 8), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))


@given(made=MATRICES)
def test_quantized_columns_are_within_half_a_step_and_use_seven_bits(made: tuple[int, int, int, float]) -> None:
    rows, columns, seed, size = made
    random = np.random.default_rng(seed)
    matrix = (random.standard_normal((rows, columns)) * size * random.choice([0, 1, 100], columns)).astype(np.float32)
    integers, scales = quantize_columns(matrix)
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert integers.shape == matrix.shape
    assert np.abs(integers).max() <= WEIGHT_LIMIT == 63
    assert np.all(scales > 0)
    error = np.abs(integers * scales.astype(np.float64) - matrix)
    assert np.all(error <= scales * (0.5 + 1e-4))
    used = np.abs(integers).max(axis=0)
    assert np.all(used[np.abs(matrix).max(axis=0) > 0] == WEIGHT_LIMIT)  # no bit is wasted


def test_a_column_has_a_scale_of_its_own() -> None:
    integers, scales = quantize_columns(np.array([[63, 0.63, 0], [-31.5, -0.63, 0]], np.float32))
    assert integers.tolist() == [[63, 63, 0], [-32, -63, 0]]
    assert scales.tolist() == pytest.approx([1, 0.01, 1])


def test_sums_of_two_products_cannot_saturate_sixteen_bits() -> None:
    assert 2 * 255 * WEIGHT_LIMIT < 2**15
    assert round(1 / ACTIVATION_SCALE) == 127  # |h| < 1 fits -127..127
