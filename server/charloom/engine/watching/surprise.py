"""The surprise of a line, as one number.

Knows: NumPy. Does not know: models, texts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

STRETCH = 4
"""Length in tokens of the stretch that counts. Chosen on logs without labels and on the first half of BGL
(docs/decisions/0041-the-score-of-a-line.md), where the sum and the mean of a line were worse: the sum grows with its
length, and the mean hides one strange word in a long line."""
UNKNOWN_NATS = math.log(0x110000)
"""The nats of a character that the model lacks: as if all code points were equally probable."""


def surprise(nats: npt.NDArray[np.floating[Any]]) -> float:
    """The mean over the line's most surprising stretch of `STRETCH` tokens, in nats per token.

    Args:
        nats: [T], the negative log-probability of each token, the line break included. With fewer than `STRETCH` tokens
            the missing ones count as certain; without tokens the result is 0.
    """
    if len(nats) <= STRETCH:
        return float(nats.sum(dtype=np.float64)) / STRETCH
    sums = np.concatenate([np.zeros(1), np.cumsum(nats, dtype=np.float64)])
    return float((sums[STRETCH:] - sums[:-STRETCH]).max()) / STRETCH
