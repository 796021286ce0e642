"""The exported decoders against the oracles: the torch model step by step, and the contract in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from charloom.bundle import CellKind, DecoderKind
from charloom.controls import ENDED, FREE
from charloom.engine.decoding.decoder import Decoder, Floats, Inputs
from charloom.engine.decoding.invariance import constrained_inputs, random_inputs
from charloom.engine.decoding.sampling import Sampling
from charloom.export.quantize import quantize_columns
from charloom.export.weights import decoder_weights
from charloom.network.generate import generate
from charloom.network.model import CharLSTM
from tests.unit.export.decoder_calls import exported, naive, one_row, random_model, with_sampling, zoneout_of
from tests.unit.training.training_runs import plausible_tokens, random_uniforms

FULL_PRECISION = pytest.mark.parametrize(
    "kind", [DecoderKind.ONNX_FP32, DecoderKind.TORCHSCRIPT], ids=lambda k: k.value
)
SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.5),
    Sampling(temperature=0.8, top_k=10),
    Sampling(temperature=1.3, top_p=0.9),
    Sampling(temperature=1.0, top_k=20, top_p=0.95, min_p=0.1),
]
LENGTH = 1_700  # of each text: more than 10,000 in all


@dataclass(frozen=True)
class Text:
    """What the oracle generated."""

    sampling: Sampling
    uniforms: Floats
    tokens: list[int]
    logits: Floats
    """[len(tokens), V]: what each token was chosen from"""


PROMPT = [5, 6, 7, 8, 9]
START = 1


@pytest.fixture(scope="module")
def model() -> CharLSTM:
    return random_model(2, hidden=48, vocabulary=60)


@pytest.fixture(scope="module")
def twins(model: CharLSTM, tmp_path_factory: pytest.TempPathFactory) -> dict[DecoderKind, Decoder]:
    """The model as decoders."""
    directory = tmp_path_factory.mktemp("twins")
    return {kind: exported(model, kind, directory) for kind in (DecoderKind.ONNX_FP32, DecoderKind.TORCHSCRIPT)}


@pytest.fixture(scope="module")
def texts(model: CharLSTM) -> list[Text]:
    made = []
    for seed, sampling in enumerate(SETTINGS):
        uniforms = random_uniforms(seed, LENGTH)
        tokens = generate(
            model,
            PROMPT,
            uniforms.tolist(),
            start_token=START,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        with torch.no_grad():
            logits, _ = model(torch.tensor([[START, *PROMPT, *tokens[:-1]]]), model.zero_state(1))
        made.append(Text(sampling, uniforms, tokens, logits[0, len(PROMPT) :].numpy()))
    return made


def continued(decoder: Decoder, text: Text, known: int) -> list[int]:
    """The decoder's text for the same uniforms, the first `known` tokens of the oracle forced, the rest its own."""
    inputs = one_row(
        decoder.shape,
        token=START,
        forced=[*PROMPT, *text.tokens[:known], *[-1] * (LENGTH - known)],
        uniform=[*[0.0] * len(PROMPT), *text.uniforms],
        temperature=text.sampling.temperature,
        top_k=text.sampling.top_k,
        top_p=text.sampling.top_p,
        min_p=text.sampling.min_p,
    )
    tokens: list[int] = decoder.run(inputs).tokens[len(PROMPT) :, 0].tolist()
    return tokens


@FULL_PRECISION
@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_a_decoder_writes_the_oracle_s_text(
    kind: DecoderKind, setting: int, texts: list[Text], twins: dict[DecoderKind, Decoder]
) -> None:
    """The same tokens for the same uniform numbers, each generated from the decoder's own carried state.

    Sums in another order may flip a sample whose uniform number lies within 1e-5 of a boundary. The flipped token
    must be the neighbour; then the oracle's token is forced, and the text goes on.
    """
    text, known, flips = texts[setting], 0, 0
    assert len(set(text.tokens)) > (20 if text.sampling.temperature else 1)
    while (found := continued(twins[kind], text, known)) != text.tokens:
        at = next(i for i, (left, right) in enumerate(zip(found, text.tokens, strict=True)) if left != right)
        bias = np.zeros(twins[kind].shape.vocabulary, np.float32)
        assert found[at] in plausible_tokens(text.logits[at], float(text.uniforms[at]), text.sampling, bias)
        known, flips = at + 1, flips + 1
        assert flips <= 3


@FULL_PRECISION
def test_forced_through_a_decoder_the_oracle_s_text_has_the_oracle_s_probabilities(
    kind: DecoderKind, texts: list[Text], twins: dict[DecoderKind, Decoder]
) -> None:
    """This holds whatever was flipped: log-probabilities within 1e-4 at every one of 10,200 positions."""
    assert LENGTH * len(texts) > 10_000
    for text in texts:
        forced = [*PROMPT, *text.tokens]
        result = twins[kind].run(one_row(twins[kind].shape, token=START, forced=forced))
        assert result.tokens[:, 0].tolist() == forced
        expected = torch.log_softmax(torch.from_numpy(text.logits), dim=1).numpy()
        expected = expected[np.arange(LENGTH), text.tokens]
        np.testing.assert_allclose(result.logprob[len(PROMPT) :, 0], expected, atol=1e-4)


@FULL_PRECISION
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_mixed_batch_is_what_plain_numpy_makes_of_it(kind: DecoderKind, layers: int, tmp_path: Path) -> None:
    """Rows with their own forced steps, numbers of steps (0 too), filters and biases; uniforms off all boundaries."""
    assert_numpy_agrees(random_model(layers), kind, tmp_path)


@FULL_PRECISION
@pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
@pytest.mark.parametrize("zoneout", [False, True], ids=["", "zoneout"])
def test_every_cell_has_every_decoder(kind: DecoderKind, cell: CellKind, zoneout: bool, tmp_path: Path) -> None:
    assert_numpy_agrees(random_model(2, cell=cell, **(zoneout_of(cell) if zoneout else {})), kind, tmp_path)


@FULL_PRECISION
@pytest.mark.parametrize("seed", range(3))
def test_rows_with_constraints_are_what_plain_numpy_makes_of_them(kind: DecoderKind, seed: int, tmp_path: Path) -> None:
    """Beside rows without; some end, and each tells how much its constraint left."""
    model = random_model(2)
    decoder, oracle = exported(model, kind, tmp_path), naive(model)
    inputs = constrained_inputs(decoder, 40, 12, seed)
    result, expected = decoder.run(inputs), oracle.run(inputs)
    assert inputs.constraints is not None
    bound = inputs.constraints.state != FREE
    assert 10 < bound.sum() < 40
    assert np.array_equal(result.tokens, expected.tokens)
    assert np.array_equal(result.taken, expected.taken)
    assert np.array_equal(result.automaton, expected.automaton)
    assert (result.taken == inputs.steps)[~bound].all()
    assert 3 < (result.automaton == ENDED).sum() < bound.sum()
    taken = np.arange(12)[:, None] < result.taken
    np.testing.assert_allclose(result.allowed[taken], expected.allowed[taken], atol=1e-4)
    assert (result.allowed[:, ~bound] == 0).all()
    assert (result.allowed < -0.1).sum() > 20
    np.testing.assert_allclose(result.state, expected.state, atol=2e-5)


def assert_numpy_agrees(model: CharLSTM, kind: DecoderKind, tmp_path: Path) -> None:
    layers = model.config.layers
    decoder, oracle = exported(model, kind, tmp_path), naive(model)
    assert decoder.shape == oracle.shape
    inputs = mixed_inputs(decoder, seed=layers)
    result, expected = decoder.run(inputs), oracle.run(inputs)
    assert np.array_equal(result.tokens, expected.tokens)
    taken = np.arange(len(inputs.forced))[:, None] < inputs.steps
    np.testing.assert_allclose(result.logprob[taken], expected.logprob[taken], atol=1e-4)
    np.testing.assert_allclose(result.state, expected.state, atol=2e-5)
    sampled = taken & (inputs.forced < 0)
    assert sampled.sum() > 80
    assert len(np.unique(result.tokens[sampled])) > 5


def mixed_inputs(decoder: Decoder, seed: int, rows: int = 24, steps: int = 12) -> Inputs:
    random = np.random.default_rng(seed)
    inputs = random_inputs(decoder, rows, steps, seed)
    bias = random.choice(np.array([0, 0, 1, -1, -np.inf], np.float32), (rows, decoder.shape.vocabulary))
    bias[:, 0] = 0  # something is always allowed
    counts = random.integers(0, steps + 1, size=rows)
    counts[:3] = (0, 1, steps)
    return with_sampling(inputs, bias=bias)._replace(steps=counts)


@pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
def test_log_probabilities_are_those_before_bias_temperature_and_filters(
    kind: DecoderKind, decoders: dict[DecoderKind, Decoder]
) -> None:
    shape, forced = decoders[kind].shape, [5, 6, 7, 8]
    plain = decoders[kind].run(one_row(shape, forced=forced))
    shaped = one_row(shape, forced=forced, temperature=0.3, top_k=1, top_p=0.2, min_p=0.9)
    bias = np.full((1, shape.vocabulary), -2, np.float32)
    bias[0, forced] = -np.inf  # a text that is fed may hold what sampling forbids
    result = decoders[kind].run(with_sampling(shaped, bias=bias))
    assert np.array_equal(result.logprob, plain.logprob)
    assert result.tokens[:, 0].tolist() == forced


@pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
@pytest.mark.parametrize("filters", [{"top_k": 5}, {"top_p": 4.5 / 256}, {"temperature": 0.0}], ids=str)
def test_among_equal_logits_the_lowest_ids_are_kept(
    kind: DecoderKind, filters: dict[str, float], tmp_path: Path
) -> None:
    model = random_model(1, vocabulary=256)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    decoder = exported(model, kind, tmp_path)
    result = decoder.run(one_row(decoder.shape, forced=[-1] * 200, uniform=random_uniforms(1, 200), **filters))
    assert set(result.tokens[:, 0].tolist()) == ({0} if "temperature" in filters else {0, 1, 2, 3, 4})


@pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
def test_int8_follows_fp32_closely_in_every_cell(cell: CellKind, tmp_path: Path) -> None:
    """One step from the same state, h in steps of 1/127."""
    model = random_model(2, cell=cell, **{"zoneout_hidden" if cell is CellKind.GRU else "zoneout_cell": 0.2})
    int8, fp32 = (exported(model, kind, tmp_path) for kind in (DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32))
    inputs = random_inputs(int8, 16, 1, seed=4)
    left, right = int8.run(inputs), fp32.run(inputs)
    np.testing.assert_allclose(left.state, right.state, atol=0.05)
    assert not np.array_equal(left.state[0], right.state[0])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_int8_step_is_the_step_on_rounded_weights_and_rounded_h(layers: int, tmp_path: Path) -> None:
    """The same in float64 NumPy: h in steps of 1/127, each column of weights in 127 steps of its own size."""
    model = random_model(layers)
    weights, decoder = decoder_weights(model), exported(model, DecoderKind.ONNX_INT8, tmp_path)
    inputs = random_inputs(decoder, 8, 1, seed=layers)
    inputs = inputs._replace(steps=np.ones(8, np.int64), forced=np.full((1, 8), 3))

    def times(h: Floats, matrix: Floats) -> Floats:
        integers, scales = quantize_columns(matrix)
        product: Floats = np.rint(h * 127) @ integers.astype(np.float64) / 127 * scales
        return product

    def sigmoid(x: Floats) -> Floats:
        return 1 / (1 + np.exp(-x))

    h, c = inputs.state.astype(np.float64)
    below = h[0]
    for layer in range(layers):
        if layer == 0:
            gates = times(h[0], weights.layers[0]["matrix"]) + weights.table[inputs.token]
        else:
            gates = times(np.concatenate([below, h[layer]], axis=1), weights.layers[layer]["matrix"])
            gates = gates + weights.layers[layer]["bias"]
        i, f, o, g = np.split(gates, 4, axis=1)
        c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
        below = h[layer] = sigmoid(o) * np.tanh(c[layer])
    logits = times(below, weights.head) + weights.head_bias
    result = decoder.run(inputs)
    np.testing.assert_allclose(result.state, np.stack([h, c]), atol=1e-5)
    np.testing.assert_allclose(result.logprob[0], logits[:, 3] - np.log(np.exp(logits).sum(axis=1)), atol=1e-4)
