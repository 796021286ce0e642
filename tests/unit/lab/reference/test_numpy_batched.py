from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.reference import numpy_batched
from charloom.lab.reference.numerical import disagreement, numerical_gradient
from charloom.lab.reference.numpy_lstm import LSTM, Array
from tests.unit.lab.reference.checks import CLOSE

T, B, X, H = 5, 3, 10, 4
RANDOM = np.random.default_rng(2)
INPUTS, WEIGHTS = RANDOM.standard_normal((T, B, X)), numpy_batched.initialise(X, H, RANDOM)
FIRST_H, FIRST_C = RANDOM.uniform(-1, 1, (B, H)), RANDOM.standard_normal((B, H))
INTO_H, INTO_HN, INTO_CN = (RANDOM.standard_normal(shape) for shape in ((T, B, H), (B, H), (B, H)))


def test_step_by_step_with_carried_state_is_the_whole_batch() -> None:
    whole = numpy_batched.forward(INPUTS, WEIGHTS, FIRST_H, FIRST_C)
    h, c = FIRST_H, FIRST_C
    for t in range(T):
        step = numpy_batched.forward(INPUTS[t : t + 1], WEIGHTS, h, c)
        h, c = step.hn, step.cn
        np.testing.assert_array_equal(h, whole.h[t])
    np.testing.assert_array_equal(h, whole.hn)
    np.testing.assert_array_equal(c, whole.cn)


@pytest.mark.parametrize("lengths", [[1] * T, [2, 3], [4, 1]], ids=["steps", "parts", "uneven"])
def test_gradients_of_parts_add_up_to_those_of_the_whole_batch(lengths: list[int]) -> None:
    """The gradients into a part's start state are those into the end state of the part before."""
    expected = numpy_batched.backward(
        numpy_batched.forward(INPUTS, WEIGHTS, FIRST_H, FIRST_C).trace, INTO_H, INTO_HN, INTO_CN
    )
    cuts = np.cumsum(lengths)[:-1]
    h, c, traces = FIRST_H, FIRST_C, []
    for part in np.split(INPUTS, cuts):
        _, h, c, trace = numpy_batched.forward(part, WEIGHTS, h, c)
        traces.append(trace)
    weights, inputs = np.zeros_like(WEIGHTS), []
    dh, dc = INTO_HN, INTO_CN
    for trace, into_h in zip(reversed(traces), reversed(np.split(INTO_H, cuts)), strict=True):
        found = numpy_batched.backward(trace, into_h, dh, dc)
        weights, inputs = weights + found.weights, [found.inputs, *inputs]
        dh, dc = found.h0, found.c0
    np.testing.assert_allclose(np.concatenate(inputs), expected.inputs, atol=1e-12)
    np.testing.assert_allclose(weights, expected.weights, atol=1e-12)
    np.testing.assert_allclose(dh, expected.h0, atol=1e-12)
    np.testing.assert_allclose(dc, expected.c0, atol=1e-12)


@pytest.mark.parametrize("carried", [False, True], ids=["outputs", "outputs and last states"])
def test_every_element_of_every_gradient_is_the_numerical_one(carried: bool) -> None:
    inputs, weights, h0, c0 = INPUTS.copy(), WEIGHTS.copy(), FIRST_H.copy(), FIRST_C.copy()

    def value() -> float:
        out = numpy_batched.forward(inputs, weights, h0, c0)
        beyond = (out.hn * INTO_HN).sum() + (out.cn * INTO_CN).sum() if carried else 0.0
        return float((out.h * INTO_H).sum() + beyond)

    into = (INTO_HN, INTO_CN) if carried else (None, None)
    found = numpy_batched.backward(numpy_batched.forward(inputs, weights, h0, c0).trace, INTO_H, *into)
    for gradient, array in zip(found, (inputs, weights, h0, c0), strict=True):
        assert gradient.shape == array.shape
        assert disagreement(gradient, numerical_gradient(value, array)) < CLOSE


def test_without_start_states_it_starts_from_zero() -> None:
    plain, zero = (numpy_batched.forward(INPUTS, WEIGHTS, *start) for start in ((), (np.zeros((B, H)),) * 2))
    np.testing.assert_array_equal(plain.h, zero.h)
    np.testing.assert_array_equal(plain.cn, zero.cn)


def one_by_one() -> LSTM:
    """The layer for one sequence with the same weights."""
    columns = dict(zip("ifog", np.split(WEIGHTS, 4, axis=1), strict=True))
    parameters = {f"b_{gate}": block[0].copy() for gate, block in columns.items()}
    parameters |= {
        f"w_{gate}": np.concatenate([block[1 + X :], block[1 : 1 + X]]).T.copy() for gate, block in columns.items()
    }
    return LSTM(parameters)


def test_each_row_is_what_the_layer_for_one_sequence_makes_of_it() -> None:
    batch = numpy_batched.forward(INPUTS, WEIGHTS, FIRST_H, FIRST_C)
    back = numpy_batched.backward(batch.trace, INTO_H, INTO_HN, INTO_CN)
    layer = one_by_one()
    bias_of_f: Array = np.zeros(H)
    for row in range(B):
        trace = layer.forward(INPUTS[:, row], FIRST_H[row], FIRST_C[row])
        np.testing.assert_allclose(trace.h[1:], batch.h[:, row], atol=1e-13)
        alone = layer.backward(trace, INTO_H[:, row], INTO_HN[row], INTO_CN[row])
        np.testing.assert_allclose(alone.inputs, back.inputs[:, row], atol=1e-13)
        np.testing.assert_allclose(alone.c0, back.c0[row], atol=1e-13)
        bias_of_f += alone.parameters["b_f"]
    np.testing.assert_allclose(back.weights[0, H : 2 * H], bias_of_f, atol=1e-13)


@pytest.mark.parametrize("forget_bias", [0.0, 3.0])
def test_weights_start_with_one_spread_and_the_forget_bias_alone(forget_bias: float) -> None:
    weights = numpy_batched.initialise(60, 40, np.random.default_rng(0), forget_bias=forget_bias)
    assert weights.shape == (101, 160)
    assert weights[0].tolist() == [0.0] * 40 + [forget_bias] * 40 + [0.0] * 80
    assert float(weights[1:].std()) == pytest.approx(0.1, rel=0.02)


def test_a_forget_bias_of_three_opens_the_gate() -> None:
    """With no inputs and no h, only the biases speak: 0.95 of the cell state stays at each step, not 0.05."""
    weights = np.zeros((1 + X + H, 4 * H))
    weights[0, H : 2 * H] = 3.0
    out = numpy_batched.forward(np.zeros((1, B, X)), weights, c0=np.ones((B, H)))
    np.testing.assert_allclose(out.cn, 0.9526, atol=1e-4)
