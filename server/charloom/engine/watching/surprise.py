"""How surprising a line is, as one number.

Knows: NumPy. Does not know: models, texts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

STRETCH = 4
"""Tokens of the stretch that counts. Chosen on logs without labels and on the first half of BGL
(docs/watching-measured.md), where the sum and the mean of a line fell behind: the sum follows its length, and the mean
hides one strange word in a long line."""
UNKNOWN_NATS = math.log(0x110000)
"""What a character costs that the model has no symbol for: as one of all code points, each as probable as any other."""


def surprise(nats: npt.NDArray[np.floating[Any]]) -> float:
    """The mean over the line's most surprising stretch of `STRETCH` tokens, in nats per token.

    Args:
        nats: [T], the negative log-probability of each token, the line break included; a line of fewer tokens counts
            as if the rest were certain. 0 for none.
    """
    if len(nats) <= STRETCH:
        return float(nats.sum(dtype=np.float64)) / STRETCH
    sums = np.concatenate([np.zeros(1), np.cumsum(nats, dtype=np.float64)])
    return float((sums[STRETCH:] - sums[:-STRETCH]).max()) / STRETCH
