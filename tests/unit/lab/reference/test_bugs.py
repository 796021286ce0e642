"""Bugs that LSTMs written by hand are known for: each fails a check that the right form passes.

Each buggy form is the right class with one rule replaced. What must fail does so by more than `WRONG`, where the right
form is within `CLOSE` of the numerical gradient for every parameter.
"""

from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.reference.numerical import disagreement, numerical_gradient
from charloom.lab.reference.numpy_language_model import LanguageModel, Symbols, Tokens, log_softmax, sequences
from charloom.lab.reference.numpy_lstm import LSTM, Array, Trace, sigmoid
from charloom.lab.reference.numpy_training import SGD, Adam, Curves, Optimiser, train
from tests.unit.lab.reference.checks import (
    CLOSE,
    VOCABULARY,
    WRONG,
    made_up_text,
    random_layer,
    random_model,
    random_sequence,
    wrong_gradients,
)

LAYER = {f"{kind}_{gate}" for kind in "wb" for gate in "figo"}
OUTPUT_GATE = {"w_o", "b_o"}
FORGET_GATE = {"w_f", "b_f"}


class CellStateOneBehind(LSTM):
    def c_after(self, trace: Trace, t: int) -> Array:
        return trace.c[t]


class PreviousCellStateTwoBehind(LSTM):
    def c_before(self, trace: Trace, t: int) -> Array:
        return trace.c[t - 1]


class CellTanhTwice(LSTM):
    def cell_slope(self, c: Array) -> Array:
        return super().cell_slope(np.tanh(c))


class ForgetGateWithoutDerivative(LSTM):
    def gate_slope(self, gate: str, value: Array) -> Array:
        return sigmoid(value) if gate == "f" else super().gate_slope(gate, value)


class InputGateTwice(LSTM):
    def gate_slope(self, gate: str, value: Array) -> Array:
        return super().gate_slope(gate, sigmoid(value) if gate == "i" else value)


class CandidateTwice(LSTM):
    def gate_slope(self, gate: str, value: Array) -> Array:
        return super().gate_slope(gate, np.tanh(value) if gate == "g" else value)


class OutputGateTwice(LSTM):
    def gate_slope(self, gate: str, value: Array) -> Array:
        return super().gate_slope(gate, sigmoid(value) if gate == "o" else value)


class HiddenStateOneBehind(LanguageModel):
    def h_after(self, trace: Trace, t: int) -> Array:
        return trace.h[t]


@pytest.mark.parametrize(
    "buggy",
    [
        CellStateOneBehind,
        PreviousCellStateTwoBehind,
        CellTanhTwice,
        ForgetGateWithoutDerivative,
        InputGateTwice,
        CandidateTwice,
        OutputGateTwice,
    ],
)
def test_a_wrong_rule_of_the_layer_spoils_the_gradients_of_all_its_parameters(buggy: type[LSTM]) -> None:
    """Through the state, one gate's mistake at a late step reaches every gate at the earlier ones; w_v and b_v stay."""
    sequence = random_sequence()
    assert wrong_gradients(random_model(), sequence) == {}
    wrong = wrong_gradients(random_model(layer_kind=buggy), sequence)
    assert wrong.keys() == LAYER
    assert max(wrong.values()) > WRONG


@pytest.mark.parametrize(
    ("buggy", "spoiled"),
    [
        (CellStateOneBehind, LAYER - FORGET_GATE),
        (PreviousCellStateTwoBehind, FORGET_GATE),
        (CellTanhTwice, LAYER - FORGET_GATE - OUTPUT_GATE),
        (ForgetGateWithoutDerivative, set()),
        (InputGateTwice, {"w_i", "b_i"}),
        (CandidateTwice, {"w_g", "b_g"}),
        (OutputGateTwice, OUTPUT_GATE),
    ],
)
def test_with_one_step_from_the_zero_state_a_wrong_rule_shows_where_it_is(buggy: type[LSTM], spoiled: set[str]) -> None:
    """From c = 0 the forget gate has no gradient, unless c[-1], at t = 0 the last state, is taken for the c before.

    And what multiplies that gradient by something wrong shows nowhere: one step is too short a check.
    """
    wrong = wrong_gradients(random_model(layer_kind=buggy), random_sequence(1))
    assert wrong.keys() == spoiled
    assert min(wrong.values(), default=1) > WRONG


def test_the_hidden_state_one_behind_spoils_the_output_weights_alone() -> None:
    wrong = wrong_gradients(random_model(kind=HiddenStateOneBehind), random_sequence())
    assert wrong.keys() == {"w_v"}
    assert wrong["w_v"] > WRONG


class SizedAsGiven(LSTM):
    """Makes room for the gradients from the next step after the start state, as it was given."""

    given: Array

    def nothing_beyond(self, trace: Trace) -> tuple[Array, Array]:
        return np.zeros_like(self.given), np.zeros_like(self.given)


def layer_gradient_error(layer: LSTM, start: Array) -> float:
    """Of the forget gate's weights, for the sum of all h."""
    inputs = np.random.default_rng(0).standard_normal((6, layer.input_size))

    def value() -> float:
        return float(layer.forward(inputs, start, start).h[1:].sum())

    found = layer.backward(layer.forward(inputs, start, start), np.ones((6, layer.hidden_size)))
    return disagreement(found.parameters["w_f"], numerical_gradient(value, layer.parameters["w_f"]))


def test_next_gradients_of_the_start_state_s_kind_are_lost_where_it_is_of_another_kind() -> None:
    """Zeros of integers, say: all that is written into their likes is cut to zero, and no gradient crosses a step."""
    parameters = random_layer(3, 4).parameters
    buggy = SizedAsGiven(parameters)
    for start, shown in ((np.zeros(4), False), (np.zeros(4, int), True)):
        buggy.given = start
        assert layer_gradient_error(LSTM(parameters), start) < CLOSE
        error = layer_gradient_error(buggy, start)
        assert error > WRONG if shown else error < CLOSE


def test_next_gradients_of_the_start_state_s_shape_do_not_fit_where_one_value_stands_for_all() -> None:
    parameters = random_layer(3, 4).parameters
    buggy = SizedAsGiven(parameters)
    buggy.given = np.zeros(1)
    assert layer_gradient_error(LSTM(parameters), buggy.given) < CLOSE
    with pytest.raises(ValueError, match="broadcast"):
        layer_gradient_error(buggy, buggy.given)


class MeanOverSymbols(LanguageModel):
    def cross_entropy(self, logits: Array, targets: Tokens) -> float:
        return -float((log_softmax(logits) * np.eye(VOCABULARY)[targets]).mean(axis=1).sum())


def test_a_mean_over_the_symbols_is_a_loss_whose_gradient_is_so_many_times_smaller() -> None:
    wrong = wrong_gradients(random_model(kind=MeanOverSymbols), random_sequence())
    assert wrong.keys() == LAYER | {"w_v", "b_v"}
    assert list(wrong.values()) == pytest.approx([1 - 1 / VOCABULARY] * len(wrong))


class LogOfSoftmax(LanguageModel):
    """Neither the softmax nor the logarithm is careful."""

    def cross_entropy(self, logits: Array, targets: Tokens) -> float:
        likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -float((np.log(likelihood) * np.eye(VOCABULARY)[targets]).sum())


class LogOfShiftedSoftmax(LanguageModel):
    """The softmax is careful, the logarithm is not."""

    def cross_entropy(self, logits: Array, targets: Tokens) -> float:
        likelihood = np.exp(log_softmax(logits))
        return -float((np.log(likelihood) * np.eye(VOCABULARY)[targets]).sum())


class LogWithEpsilon(LanguageModel):
    def cross_entropy(self, logits: Array, targets: Tokens) -> float:
        likelihood = np.exp(log_softmax(logits))
        return -float(np.log(likelihood[np.arange(len(targets)), targets] + 1e-12).sum())


def surprised(kind: type[LanguageModel]) -> tuple[LanguageModel, Tokens]:
    """A model that is sure of token 0, and a text without it."""
    model = random_model(kind=kind)
    model.b_v[0] += 1000
    return model, np.array([1, 2, 3, 4])


@pytest.mark.parametrize("buggy", [LogOfSoftmax, LogOfShiftedSoftmax])
def test_the_logarithm_of_a_rounded_probability_is_no_number(buggy: type[LanguageModel]) -> None:
    sequence = random_sequence()
    assert random_model(kind=buggy).loss(sequence) == pytest.approx(random_model().loss(sequence), rel=1e-12)
    with np.errstate(all="ignore"):
        model, sequence = surprised(buggy)
        assert not np.isfinite(model.loss(sequence))
        assert wrong_gradients(model, sequence)["b_v"] == float("inf")
    model, sequence = surprised(LanguageModel)
    assert model.loss(sequence) == pytest.approx(3000, rel=0.01)
    assert wrong_gradients_of_a_large_loss(model, sequence) < 1e-5


def test_an_epsilon_inside_the_logarithm_is_finite_but_not_the_loss_whose_gradient_is_taken() -> None:
    model, sequence = surprised(LogWithEpsilon)
    assert model.loss(sequence) == pytest.approx(3 * 12 * np.log(10))
    assert wrong_gradients_of_a_large_loss(model, sequence) > 0.9


def wrong_gradients_of_a_large_loss(model: LanguageModel, sequence: Tokens) -> float:
    """Of b_v; by wider differences, since a loss of 3,000 has fewer digits to spare."""
    numerical = numerical_gradient(lambda: model.loss(sequence), model.b_v, delta=1e-3)
    return disagreement(model.loss_and_gradients(sequence)[1]["b_v"], numerical)


LENGTH = 400
TEXT = made_up_text(12 * LENGTH + 1)
GUESS = float(np.log(len(set(TEXT))))
"""The loss of a model that holds all symbols for equally likely."""


def curves(optimiser: Optimiser, clip_norm: float) -> Curves:
    symbols = Symbols(TEXT)
    parts = sequences(symbols.encode(TEXT), LENGTH)
    model = LanguageModel.initialised(len(symbols), 16, np.random.default_rng(0))
    return train(model, parts[:10], parts[10:], optimiser, 2, clip_norm=clip_norm)


def of_sums(learning_rate: float) -> SGD:
    """SGD by gradients that are summed over a sequence, where `train` gives their mean over its `LENGTH` targets."""
    return SGD(learning_rate * LENGTH)


def test_a_learning_rate_of_a_tenth_on_summed_gradients_makes_a_model_worse_than_a_guess() -> None:
    found = curves(of_sums(0.1), clip_norm=np.inf)
    assert min(found.validation[1:]) > GUESS + 1


@pytest.mark.parametrize(
    ("optimiser", "clip_norm"),
    [(of_sums(0.01), np.inf), (SGD(0.1), 1.0), (of_sums(0.1), 1 / LENGTH), (Adam(0.01), 1.0)],
    ids=["a tenth of it", "the mean", "clipped", "Adam"],
)
def test_a_smaller_rate_the_mean_clipping_or_adam_make_it_learn(optimiser: Optimiser, clip_norm: float) -> None:
    found = curves(optimiser, clip_norm)
    assert found.validation == sorted(found.validation, reverse=True)
    assert found.validation[-1] < found.validation[0] - 0.05
