"""Gradients by finite differences: the judge of every gradient that was derived by hand.

Knows: functions of arrays. Does not know: LSTMs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DELTA = 1e-5
"""Close to the cube root of the precision of float64, where truncation and rounding are about equally small."""


def numerical_gradient(value: Callable[[], float], array: Array, delta: float = DELTA) -> Array:
    """Central differences of `value()` for every element of `array`, which is changed in place and restored."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + delta
        above = value()
        array[index] = kept - delta
        below = value()
        array[index] = kept
        gradient[index] = (above - below) / (2 * delta)
    return gradient


def disagreement(found: Array, expected: Array) -> float:
    """The largest difference between two gradients, relative to the largest element of both; 0 = equal.

    Not a number anywhere counts as infinitely far. Elements are not compared one by one with their own size, as
    finite differences of a gradient near zero are all rounding.
    """
    size = float(np.maximum(np.abs(found), np.abs(expected)).max(initial=0.0))
    if not np.isfinite(size):
        return float("inf")
    return float(np.abs(found - expected).max(initial=0.0)) / size if size else 0.0
