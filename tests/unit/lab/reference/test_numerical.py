from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.reference.numerical import disagreement, numerical_gradient


def test_differences_find_a_known_gradient_and_leave_the_array() -> None:
    array = np.array([[0.3, -1.0], [2.0, 0.0]])
    kept = array.copy()
    found = numerical_gradient(lambda: float(np.sin(array).sum() + array[0, 0] * array[1, 0]), array)
    expected = np.cos(kept) + np.array([[2.0, 0.0], [0.3, 0.0]])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_array_equal(array, kept)


def test_disagreement_is_relative_to_the_largest_element() -> None:
    assert disagreement(np.array([100.0, 0.0]), np.array([100.0, 1.0])) == pytest.approx(0.01)
    assert disagreement(np.zeros(3), np.zeros(3)) == 0
    assert disagreement(np.zeros(2), np.array([0.0, 1e-9])) == 1
    assert disagreement(np.array([np.nan, 1.0]), np.ones(2)) == float("inf")
    assert disagreement(np.ones(2), np.array([np.inf, 1.0])) == float("inf")
