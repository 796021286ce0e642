from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.reference.numerical import disagreement, numerical_gradient
from charloom.lab.reference.numpy_lstm import GATES, LSTM, Array, explain_step, from_stacked, orthogonal, sigmoid
from tests.unit.lab.reference.checks import CLOSE, random_layer

RANDOM = np.random.default_rng(3)
INPUTS, FIRST_H, FIRST_C = RANDOM.standard_normal((6, 3)), RANDOM.uniform(-1, 1, 4), RANDOM.standard_normal(4)
WEIGHTS, WEIGHTS_H, WEIGHTS_C = RANDOM.standard_normal((6, 4)), RANDOM.standard_normal(4), RANDOM.standard_normal(4)


def test_a_step_with_numbers_that_can_be_checked_by_hand() -> None:
    """Biases alone decide the gates: f 3/4, i 1/2, g 3/5, o 1/4."""
    parameters = {f"w_{gate}": np.zeros((1, 2)) for gate in GATES}
    biases = {"f": np.log(3), "i": 0.0, "g": np.log(2), "o": -np.log(3)}
    parameters |= {f"b_{gate}": np.array([bias]) for gate, bias in biases.items()}
    trace = LSTM(parameters).forward(np.array([[7.0]]), np.array([0.5]), np.array([2.0]))
    assert trace.z.tolist() == [[0.5, 7.0]]
    assert [float(trace.gates[gate][0, 0]) for gate in GATES] == pytest.approx([0.75, 0.5, 0.6, 0.25])
    assert trace.c[:, 0].tolist() == pytest.approx([2.0, 0.75 * 2.0 + 0.5 * 0.6])
    assert trace.h[:, 0].tolist() == pytest.approx([0.5, 0.25 * np.tanh(1.8)])
    step = explain_step(parameters, np.array([7.0]), np.array([0.5]), np.array([2.0]))
    assert step.z.tolist() == [0.5, 7.0]
    assert {gate: value.tolist() for gate, value in step.preactivations.items()} == {g: [b] for g, b in biases.items()}
    assert [float(step.gates[gate][0]) for gate in GATES] == pytest.approx([0.75, 0.5, 0.6, 0.25])
    assert [*step.kept, *step.added, *step.c] == pytest.approx([1.5, 0.3, 1.8])
    assert step.h.tolist() == pytest.approx([0.25 * np.tanh(1.8)])


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell_state_and_its_gradient() -> None:
    parameters = {f"w_{gate}": np.zeros((2, 3)) for gate in GATES}
    parameters |= {f"b_{gate}": np.full(2, {"f": 40.0, "i": -40.0}.get(gate, 0.0)) for gate in GATES}
    layer = LSTM(parameters)
    trace = layer.forward(np.ones((50, 1)), c0=np.array([0.3, -1.2]))
    np.testing.assert_allclose(trace.c[-1], [0.3, -1.2], atol=1e-12)
    back = layer.backward(trace, np.zeros((50, 2)), dcn=np.array([1.0, 2.0]))
    np.testing.assert_allclose(back.c0, [1.0, 2.0], atol=1e-12)


def test_every_element_of_every_gradient_is_the_numerical_one() -> None:
    """Of parameters, inputs and start state, from all h and from the last state."""
    layer = random_layer(3, 4)
    inputs, h0, c0 = INPUTS.copy(), FIRST_H.copy(), FIRST_C.copy()

    def value() -> float:
        trace = layer.forward(inputs, h0, c0)
        return float((trace.h[1:] * WEIGHTS).sum() + trace.h[-1] @ WEIGHTS_H + trace.c[-1] @ WEIGHTS_C)

    back = layer.backward(layer.forward(inputs, h0, c0), WEIGHTS, WEIGHTS_H, WEIGHTS_C)
    pairs = [(back.parameters[name], parameter) for name, parameter in layer.parameters.items()]
    pairs += [(back.inputs, inputs), (back.h0, h0), (back.c0, c0)]
    for found, array in pairs:
        assert found.shape == array.shape
        assert disagreement(found, numerical_gradient(value, array)) < CLOSE


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_sequence_in_two_parts_is_the_whole_forward_and_backward(cut: int) -> None:
    layer = random_layer(3, 4)
    whole = layer.forward(INPUTS, FIRST_H, FIRST_C)
    first = layer.forward(INPUTS[:cut], FIRST_H, FIRST_C)
    second = layer.forward(INPUTS[cut:], first.h[-1], first.c[-1])
    np.testing.assert_array_equal(np.concatenate([first.h, second.h[1:]]), whole.h)
    np.testing.assert_array_equal(np.concatenate([first.c, second.c[1:]]), whole.c)
    back = layer.backward(whole, WEIGHTS)
    later = layer.backward(second, WEIGHTS[cut:])
    earlier = layer.backward(first, WEIGHTS[:cut], later.h0, later.c0)
    for name, gradient in back.parameters.items():
        np.testing.assert_allclose(earlier.parameters[name] + later.parameters[name], gradient, atol=1e-12)
    np.testing.assert_allclose(earlier.h0, back.h0, atol=1e-12)
    np.testing.assert_allclose(earlier.c0, back.c0, atol=1e-12)


def test_the_backward_pass_leaves_what_it_is_given() -> None:
    layer = random_layer(3, 4)
    trace = layer.forward(INPUTS, FIRST_H, FIRST_C)
    given = [WEIGHTS.copy(), WEIGHTS_H.copy(), WEIGHTS_C.copy()]
    once, twice = layer.backward(trace, *given), layer.backward(trace, *given)
    np.testing.assert_array_equal(once.parameters["w_f"], twice.parameters["w_f"])
    for array, kept in zip(given, (WEIGHTS, WEIGHTS_H, WEIGHTS_C), strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0, 3.0])
def test_a_layer_starts_orthogonal_with_the_forget_bias_alone(forget_bias: float) -> None:
    layer = LSTM.initialised(3, 8, np.random.default_rng(0), forget_bias=forget_bias)
    assert (layer.input_size, layer.hidden_size) == (3, 8)
    for gate in GATES:
        weights = layer.parameters[f"w_{gate}"]
        np.testing.assert_allclose(weights @ weights.T, np.eye(8), atol=1e-12)
        assert layer.parameters[f"b_{gate}"].tolist() == [forget_bias if gate == "f" else 0.0] * 8
    assert not np.allclose(layer.parameters["w_f"], layer.parameters["w_i"])


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 7), (7, 3)])
def test_orthogonal_matrices_keep_lengths_on_their_shorter_side(rows: int, columns: int) -> None:
    matrix = orthogonal(np.random.default_rng(1), rows, columns)
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    assert matrix.shape == (rows, columns)
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)


def test_orthogonal_matrices_prefer_no_direction() -> None:
    """The mean over many is zero, element by element; a bare QR has negative ones on its diagonal."""
    random = np.random.default_rng(2)
    mean = np.mean([orthogonal(random, 3, 3) for _ in range(500)], axis=0)
    np.testing.assert_allclose(mean, 0, atol=0.12)


def test_the_sigmoid_is_exact_and_never_overflows() -> None:
    x = np.array([-1e4, -np.log(3), 0.0, np.log(3), 1e4])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(sigmoid(x), [0.0, 0.25, 0.5, 0.75, 1.0], atol=1e-15)


def test_stacked_matrices_are_taken_apart_gate_by_gate() -> None:
    def block(value: float, columns: int) -> Array:
        return np.full((2, columns), value)

    weight_ih = np.concatenate([block(v, 3) for v in (1, 2, 3, 4)])  # i, f, g, o
    weight_hh = np.concatenate([block(v, 2) for v in (10, 20, 30, 40)])
    parameters = from_stacked(weight_ih, weight_hh, np.repeat([5.0, 6.0, 7.0, 8.0], 2))
    for gate, value in {"i": 1, "f": 2, "g": 3, "o": 4}.items():
        assert parameters[f"w_{gate}"].tolist() == [[10 * value] * 2 + [value] * 3] * 2
        assert parameters[f"b_{gate}"].tolist() == [4 + value] * 2
