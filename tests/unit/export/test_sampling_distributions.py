"""What each sampling parameter does to the distribution of the next token, for every exported decoder.

The uniform numbers of a test lie on a grid, so that the share of each token is its probability to within one grid step:
nothing here is a matter of luck. The expected distributions are stated in the test, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from charloom.bundle import DecoderKind
from charloom.engine.decoding.decoder import Decoder, Inputs, neutral
from charloom.engine.decoding.device_decoder import DeviceDecoder
from tests.unit.export.decoder_calls import exported, random_model, with_sampling

Numbers = npt.NDArray[np.float64]
V, GRID, ROWS = 17, 4096, 256
COUNTS = np.array([0, 0, 1, 5, 0, 2, 0, 0, 1, 0, 3, 0, 0, 0, 1, 0, 0])


@pytest.fixture(scope="module", params=[*DecoderKind, "device"], ids=str)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    directory, device = tmp_path_factory.mktemp("decoder"), request.param == "device"
    kind = DecoderKind.TORCHSCRIPT if device else request.param
    decoder = exported(random_model(2, vocabulary=V), kind, directory)
    return DeviceDecoder(Path(directory) / kind.file, "cpu", rows=ROWS) if device else decoder


def call(decoder: Decoder, forced: int, uniform: Numbers, fields: dict[str, float | Numbers], top: int = 0) -> Inputs:
    """One step of as many rows as there are uniform numbers, all from the same state."""
    rows = len(uniform)
    values = neutral(rows, V) | {"top": np.array([top])}
    for name, value in fields.items():
        values[name] = np.broadcast_to(np.asarray(value, values[name].dtype), values[name].shape).copy()
    arrays, layers, hidden, _ = decoder.shape
    one = np.random.default_rng(1).uniform(-0.9, 0.9, (layers, 1, hidden)).astype(np.float32)
    return Inputs(
        token=np.full(rows, 3),
        state=np.stack([one.repeat(rows, axis=1)] * arrays),
        forced=np.full((1, rows), forced),
        steps=np.ones(rows, np.int64),
        uniform=uniform.astype(np.float32)[None],
        sampling=values,
    )


def shares(decoder: Decoder, **fields: float | Numbers) -> Numbers:
    """How often each token is chosen."""
    grid = (np.arange(GRID) + 0.5) / GRID
    chosen = [decoder.run(call(decoder, -1, part, fields)).tokens[0] for part in np.split(grid, GRID // ROWS)]
    return np.bincount(np.concatenate(chosen), minlength=V) / GRID


def model_logprobs(decoder: Decoder) -> Numbers:
    """The model's own distribution, token by token forced."""
    logprobs = [decoder.run(call(decoder, token, np.zeros(1), {})).logprob[0, 0] for token in range(V)]
    found = np.array(logprobs, np.float64)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)
    return found


def softmax(logits: Numbers) -> Numbers:
    weights = np.exp(logits - logits[np.isfinite(logits)].max())
    return np.asarray(weights / weights.sum())


def only(probability: Numbers, kept: npt.NDArray[np.bool_]) -> Numbers:
    return np.where(kept, probability, 0) / probability[kept].sum()


def top_k(logprobs: Numbers, k: int) -> Numbers:
    return only(np.exp(logprobs), logprobs >= np.sort(logprobs)[-k])


def top_p(logprobs: Numbers, p: float) -> Numbers:
    probability = np.exp(logprobs)
    kept = np.zeros(V, bool)
    for token in np.argsort(-probability):
        kept[token] = True
        if probability[kept].sum() >= p:
            break
    return only(probability, kept)


BIAS = np.linspace(-2, 2, V)
FORBIDDEN = np.where(np.arange(V) % 3 == 0, -np.inf, 0)
CASES: dict[str, tuple[dict[str, float | Numbers], Callable[[Numbers], Numbers]]] = {
    "nothing": ({}, np.exp),
    "temperature": ({"temperature": 0.5}, lambda p: softmax(p / 0.5)),
    "high temperature": ({"temperature": 3.0}, lambda p: softmax(p / 3)),
    "greedy": ({"temperature": 0.0}, lambda p: np.eye(V)[p.argmax()]),
    "top_k": ({"top_k": 4}, lambda p: top_k(p, 4)),
    "top_p": ({"top_p": 0.7}, lambda p: top_p(p, 0.7)),
    "min_p": ({"min_p": 0.2}, lambda p: only(np.exp(p), p >= p.max() + np.log(0.2))),
    "logit_bias": ({"bias": BIAS}, lambda p: softmax(p + BIAS)),
    "forbidden": ({"bias": FORBIDDEN}, lambda p: softmax(p + FORBIDDEN)),
    "greedy forbidden": ({"bias": FORBIDDEN, "temperature": 0.0}, lambda p: np.eye(V)[(p + FORBIDDEN).argmax()]),
    "presence": ({"presence": 1.5, "counts": COUNTS}, lambda p: softmax(p - 1.5 * (COUNTS > 0))),
    "frequency": ({"frequency": 0.4, "counts": COUNTS}, lambda p: softmax(p - 0.4 * COUNTS)),
    "negative frequency": ({"frequency": -0.4, "counts": COUNTS}, lambda p: softmax(p + 0.4 * COUNTS)),
    "all penalties but repetition, then top_k of what they left": (
        {"frequency": 0.4, "presence": 1, "counts": COUNTS, "top_k": 5},
        lambda p: top_k(np.log(softmax(p - 0.4 * COUNTS - (COUNTS > 0))), 5),
    ),
    "bias before temperature": ({"bias": BIAS, "temperature": 0.5}, lambda p: softmax((p + BIAS) / 0.5)),
    "filters after temperature": (
        {"temperature": 0.5, "min_p": 0.2},
        lambda p: only(softmax(p * 2), p >= p.max() + np.log(0.2) / 2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_parameter_gives_the_distribution_that_it_means(case: str, decoder: Decoder) -> None:
    fields, meaning = CASES[case]
    expected = meaning(model_logprobs(decoder))
    np.testing.assert_allclose(shares(decoder, **fields), expected, atol=2 / GRID)
    if fields and "temperature" not in fields:  # the case shows something
        assert np.abs(expected - np.exp(model_logprobs(decoder))).max() > 0.01


def test_repetition_divides_positive_and_multiplies_negative_logits(decoder: Decoder) -> None:
    """Its meaning depends on the logits themselves, which no output tells: they are the log-probabilities and one
    constant, and that is found from the shares at one penalty and then holds for all others."""
    logprobs = model_logprobs(decoder)

    def expected(constant: float, factor: float) -> Numbers:
        logits = logprobs + constant
        penalised = np.where(logits > 0, logits / factor, logits * factor)
        return softmax(np.where(COUNTS > 0, penalised, logits))

    seen = {factor: shares(decoder, repetition=factor, counts=COUNTS) for factor in (0.5, 1.3, 2.0)}
    constants = np.arange(-10, 10, 0.005)
    errors = [np.abs(expected(constant, 1.3) - seen[1.3]).max() for constant in constants]
    constant = float(constants[int(np.argmin(errors))])
    for factor, found in seen.items():
        np.testing.assert_allclose(found, expected(constant, factor), atol=8 / GRID)
    assert np.abs(seen[2.0] - np.exp(logprobs)).max() > 0.02


def test_tokens_are_counted_as_a_call_goes_on(decoder: Decoder) -> None:
    """In one call of 30 steps, fed and generated ones: the same as 30 calls that are told the counts."""
    random = np.random.default_rng(5)
    uniform = random.integers(2**23, size=30) / 2**23
    forced = [4, 4, 7, *[-1] * 27]
    fields: dict[str, float | Numbers] = {"frequency": 0.5, "presence": 0.3, "repetition": 1.2}
    one = call(decoder, -1, np.zeros(1), fields)
    whole = decoder.run(
        one._replace(
            forced=np.array(forced)[:, None],
            uniform=uniform.astype(np.float32)[:, None],
            steps=np.array([30]),
        )
    )
    counts = np.zeros((1, V), np.float32)
    for step in range(30):
        part = decoder.run(
            with_sampling(one, counts=counts)._replace(
                forced=np.array([[forced[step]]]),
                uniform=uniform[step].astype(np.float32)[None, None],
            )
        )
        assert part.tokens[0, 0] == whole.tokens[step, 0]
        counts[0, part.tokens[0, 0]] += 1
        one = one._replace(token=part.tokens[0], state=part.state)
    assert counts.max() < 15, "without the penalties some token would be everywhere"


@pytest.mark.parametrize("top", [1, 5, V])
def test_the_most_probable_tokens_are_told_in_order(top: int, decoder: Decoder) -> None:
    logprobs = model_logprobs(decoder)
    found = decoder.run(call(decoder, -1, np.array([0.1, 0.9]), {"temperature": 0.3, "bias": BIAS}, top=top))
    assert found.top_tokens.shape == found.top_logprob.shape == (1, 2, top)
    order = np.argsort(-logprobs)[:top]
    for row in range(2):
        assert found.top_tokens[0, row].tolist() == order.tolist()
        np.testing.assert_allclose(found.top_logprob[0, row], logprobs[order], atol=1e-5)


def test_rows_that_ask_for_nothing_are_the_same_beside_rows_that_ask_for_everything(decoder: Decoder) -> None:
    """The decoders take another way through the step then, with the same result to the last bit."""
    random = np.random.default_rng(6)
    uniform = random.integers(2**23, size=6) / 2**23
    plain = call(decoder, -1, uniform, {})._replace(
        forced=np.full((9, 6), -1), uniform=(random.integers(2**23, size=(9, 6)) / 2**23).astype(np.float32)
    )
    plain = plain._replace(steps=np.full(6, 9))
    mixed = plain._replace(steps=np.array([9, 9, 9, 9, 4, 9]))
    for name, value in {"temperature": 0, "top_k": 2, "presence": 1, "frequency": 1, "repetition": 2}.items():
        changed = mixed.sampling[name].copy()
        changed[5] = value
        mixed = with_sampling(mixed, **{name: changed})
    alone, beside = decoder.run(plain), decoder.run(mixed)
    pairs = ((alone.tokens, beside.tokens), (alone.logprob, beside.logprob), (alone.state[0], beside.state[0]))
    for before, after in pairs:
        assert np.array_equal(before[:, :4], after[:, :4])
    assert np.array_equal(alone.tokens[:4, 4], beside.tokens[:4, 4])
    assert not np.array_equal(alone.tokens[:, 5], beside.tokens[:, 5])
