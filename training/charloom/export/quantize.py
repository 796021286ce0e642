"""Static int8: weights with one scale per output column, activations with one fixed scale.

Every product of the decoder has h as its input, and |h| <= 1 always, so the activation scale 1/127 needs no
calibration and no look at the batch: a row's result does not depend on the other rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charloom.network.cells.cell import Matrix

ACTIVATION_SCALE = 1 / 127
ACTIVATION_ZERO_POINT = 128
"""Activations are uint8, 1..255: that is the operand order that x86 multiplies fastest."""
WEIGHT_LIMIT = 63
"""Weights use 7 bits. Without VNNI, x86 adds pairs of products u8 x s8 in 16 bits: 2 * 255 * 63 < 2^15 cannot
saturate, so every machine computes the same exact sums."""


def quantize_columns(matrix: Matrix) -> tuple[npt.NDArray[np.int8], Matrix]:
    """Integers [n, m] and scales [m] with `integers * scales` close to `matrix` [n, m]."""
    largest = np.abs(matrix).max(axis=0)
    scales = np.where(largest > 0, largest / WEIGHT_LIMIT, 1.0).astype(np.float32)
    integers = np.rint(matrix / scales).clip(-WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8)
    return integers, scales
