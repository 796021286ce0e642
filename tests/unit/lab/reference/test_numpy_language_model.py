from __future__ import annotations

import math

import numpy as np
import pytest

from charloom.lab.reference.numpy_language_model import LanguageModel, Symbols, Unit, log_softmax, sequences, split
from tests.unit.lab.reference.checks import VOCABULARY, random_model, random_sequence, wrong_gradients

TEXT = "It was — as ever — not\nto be: 2 late, won't it?\n\n"


@pytest.mark.parametrize("seed", range(3))
def test_every_element_of_every_gradient_is_the_numerical_one(seed: int) -> None:
    assert wrong_gradients(random_model(seed), random_sequence(seed=seed)) == {}


def test_a_sequence_with_one_target_has_right_gradients_too() -> None:
    assert wrong_gradients(random_model(), random_sequence(1)) == {}


def test_the_loss_is_the_sum_of_what_each_target_costs() -> None:
    model, sequence = random_model(), random_sequence()
    logits, _ = model.forward(sequence[:-1])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    costs = [-math.log(probabilities[t, target]) for t, target in enumerate(sequence[1:])]
    assert model.loss(sequence) == pytest.approx(sum(costs), rel=1e-12)
    assert model.loss_and_gradients(sequence)[0] == model.loss(sequence)


def test_log_probabilities_are_those_of_the_softmax_whatever_is_added_to_the_logits() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 7))
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=1), 1, atol=1e-12)
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(log_softmax(logits + 1e6), log_softmax(logits), atol=1e-8)


@pytest.mark.parametrize("unit", ["character", "word"])
def test_text_goes_to_tokens_and_back(unit: Unit) -> None:
    symbols = Symbols(TEXT, unit)
    tokens = symbols.encode(TEXT)
    assert symbols.decode(tokens) == TEXT
    assert len(set(tokens.tolist())) == len(symbols)
    with pytest.raises(KeyError):
        symbols.encode("Ж")


def test_units() -> None:
    assert split("to be, no?", "character") == list("to be, no?")
    assert split("to be,  no?", "word") == ["to", " ", "be", ",", "  ", "no", "?"]


@pytest.mark.parametrize("length", [1, 4, 10, 99])
def test_sequences_ask_for_each_token_but_the_first_once(length: int) -> None:
    parts = sequences(np.arange(11), length)
    assert [token for part in parts for token in part[1:]] == list(range(1, 11))
    assert all(len(part) == length + 1 for part in parts[:-1])
    for part in parts:
        assert part[0] == part[1] - 1


@pytest.mark.parametrize("seed", range(3))
def test_generated_tokens_follow_the_model_s_own_state(seed: int) -> None:
    """Each is drawn from what a whole reading of all before it predicts, by the same random numbers."""
    model, text = random_model(seed), [1, 2]
    made = model.generate(np.array(text), 60, np.random.default_rng(seed), temperature=0.7)
    random = np.random.default_rng(seed)
    for token in made:
        logits, _ = model.forward(np.array(text))
        assert token == random.choice(VOCABULARY, p=np.exp(log_softmax(logits[-1] / 0.7)))
        text.append(token)


def test_generated_tokens_are_drawn_in_proportion() -> None:
    model = LanguageModel.initialised(VOCABULARY, 3, np.random.default_rng(0))
    model.w_v[:] = 0
    model.b_v[:] = np.log([0.5, 0.3, 0.2, 1e-9, 1e-9])
    made = model.generate(np.array([0]), 2000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(made, minlength=VOCABULARY) / 2000, [0.5, 0.3, 0.2, 0, 0], atol=0.05)
