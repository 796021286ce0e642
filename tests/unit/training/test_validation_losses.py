from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from charloom.bundle import Tokens
from charloom.engine.decoding.decoder import Inputs, neutral
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_trained
from charloom.training.data.texts import CorpusError
from charloom.training.evaluate import losses, tail_estimate, tail_loss, window_batches, windows_loss
from charloom.training.run_directory import load_validation
from tests.oracles.naive_decoder import NaiveDecoder
from tests.unit.training.training_runs import random_model

VOCABULARY = 7


@pytest.fixture(scope="module")
def model() -> CharLSTM:
    return random_model(VOCABULARY).train()  # the protocols themselves must turn dropout off


def tokens_of(count: int, seed: int = 1) -> Tokens:
    return np.random.default_rng(seed).integers(VOCABULARY, size=count)


def loss_one_token_at_a_time(model: CharLSTM, tokens: Tokens) -> float:
    """The protocol `tail` in NumPy: an independent statement of the network, one step per call."""
    decoder = NaiveDecoder({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    state = np.zeros((decoder.shape.arrays, decoder.shape.layers, 1, decoder.shape.hidden), np.float32)
    total = 0.0
    for token, target in itertools.pairwise(tokens):
        result = decoder.run(
            Inputs(
                token=np.array([token]),
                state=state,
                forced=np.array([[target]]),
                steps=np.array([1]),
                uniform=np.zeros((1, 1), np.float32),
                sampling=neutral(1, decoder.shape.vocabulary),
            )
        )
        state = result.state
        total -= float(result.logprob[0, 0])
    return total / (len(tokens) - 1)


@pytest.mark.parametrize("count", [2, 3, 300])
def test_tail_is_the_mean_loss_of_a_plain_loop_over_all_predictions(count: int, model: CharLSTM) -> None:
    tokens = tokens_of(count)
    assert tail_loss(model, tokens) == pytest.approx(loss_one_token_at_a_time(model, tokens), abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 298, 299, 300, 4096])
def test_tail_does_not_depend_on_the_chunk(chunk: int, model: CharLSTM) -> None:
    tokens = tokens_of(300)
    assert tail_loss(model, tokens, chunk) == pytest.approx(tail_loss(model, tokens), abs=1e-6)


def constant_model(log_probabilities: list[float]) -> CharLSTM:
    """A model that predicts the same distribution whatever it reads."""
    model = CharLSTM(len(log_probabilities), ModelConfig(layers=1, hidden_size=4, embedding_size=4, dropout=0))
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor(log_probabilities)
    return model


def test_the_loss_of_uniform_predictions_is_log_v_by_every_protocol() -> None:
    model, tokens = constant_model([0.0] * VOCABULARY), tokens_of(2000)
    expected = pytest.approx(math.log(VOCABULARY), abs=1e-6)
    assert losses(model, tokens) == {"tail": expected, "windows-256": expected}
    assert tail_estimate(model, tokens) == expected


def test_the_loss_of_constant_predictions_is_the_cross_entropy_with_the_tokens() -> None:
    model = constant_model([math.log(p) for p in (0.5, 0.3, 0.2)])
    zeros, twos = np.zeros(600, np.int64), np.full(600, 2)
    assert windows_loss(model, zeros, 2) == pytest.approx(-math.log(0.5), abs=1e-6)
    assert windows_loss(model, twos, 2) == pytest.approx(-math.log(0.2), abs=1e-6)
    half = np.concatenate([zeros, twos])
    assert tail_loss(model, half) == pytest.approx(-(599 * math.log(0.5) + 600 * math.log(0.2)) / 1199, abs=1e-6)


def test_a_window_starts_from_the_zero_state_and_has_256_predictions(model: CharLSTM) -> None:
    tokens = tokens_of(257)  # so short that every window starts at 0
    assert windows_loss(model, tokens, 1) == pytest.approx(tail_loss(model, tokens), abs=1e-5)


def test_windows_are_the_same_at_each_call_and_do_not_touch_torch_s_random_numbers(model: CharLSTM) -> None:
    tokens = tokens_of(3000)
    state = torch.get_rng_state()
    assert windows_loss(model, tokens, 3) == windows_loss(model, tokens, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_short_text_is_read_in_fewer_than_200_batches_of_windows(
    model: CharLSTM,
) -> None:
    assert [window_batches(tokens) for tokens in (257, 3000, 111_540, 10_000_000)] == [1, 6, 200, 200]
    tokens = tokens_of(3000)
    assert windows_loss(model, tokens) == windows_loss(model, tokens, 6)


def test_windows_lie_all_over_the_text() -> None:
    model = constant_model([math.log(p) for p in (0.9, 0.1)])
    tokens = np.repeat([0, 1], 20_000)
    half = -(math.log(0.9) + math.log(0.1)) / 2
    assert windows_loss(model, tokens, 20) == pytest.approx(half, rel=0.1)


def test_the_estimate_is_close_to_tail_on_a_trained_model(run_directory: Path) -> None:
    model, tokens = load_trained(run_directory).model, load_validation(run_directory)
    assert tail_estimate(model, tokens) == pytest.approx(tail_loss(model, tokens), abs=0.01)


@pytest.mark.parametrize("count", [2, 300, 1024])
def test_the_estimate_of_a_short_text_is_tail_itself(count: int, model: CharLSTM) -> None:
    assert tail_estimate(model, tokens_of(count)) == tail_loss(model, tokens_of(count))


def test_the_estimate_warms_each_stream_on_the_text_before_it(model: CharLSTM) -> None:
    """A model with a short memory: after 256 tokens of warming, parallel streams read what one stream reads."""
    forgetful = CharLSTM(VOCABULARY, model.config)
    forgetful.load_state_dict(model.state_dict())
    for layer in range(2):
        forgetful.layers[layer].bias.data[16:32] = -2.0
    tokens = tokens_of(32 * 50 + 1 + 2 * 256 * 8)
    streams = min(32, (len(tokens) - 1) // 512)
    assert streams > 4
    used = tokens[: (len(tokens) - 1) // streams * streams + 1]
    assert tail_estimate(forgetful, tokens) == pytest.approx(tail_loss(forgetful, used), abs=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_text_for_tail_is_refused_with_advice(count: int, model: CharLSTM) -> None:
    for measure in (tail_loss, tail_estimate, losses):
        with pytest.raises(CorpusError, match=rf"are {count} tokens .* tail protocol needs at least 2: give more"):
            measure(model, tokens_of(count))


def test_too_little_text_for_a_window_is_refused_with_advice(model: CharLSTM) -> None:
    with pytest.raises(CorpusError, match=r"are 256 tokens to measure on; the windows-256 protocol needs at least 257"):
        windows_loss(model, tokens_of(256))


def test_windows_are_left_out_of_the_losses_of_a_text_too_short_for_them(model: CharLSTM) -> None:
    assert losses(model, tokens_of(256)).keys() == {"tail"}
    assert losses(model, tokens_of(257)).keys() == {"tail", "windows-256"}
