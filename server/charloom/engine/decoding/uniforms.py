"""Random numbers as a function of seed and position: uniform(seed, position).

They are those of Philox4x64-10, a counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy as 1,
2, 3").

Because a number depends on the seed and the absolute position alone, there is nothing to carry with a session, and
replaying a position gives the same number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Floats

Words = npt.NDArray[np.uint64]

WORDS = 4
"""Random words of one counter value: position p has word p % 4 of counter p // 4."""
BITS = 23
"""Of a number, so that a number times a float32 total is always below that total."""


class Uniforms:
    """The numbers of a seed. Asking for them in order is fast, in any other order possible.

    Args:
        seed: 64 bits, the generator's key
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._next = -1

    def words(self, position: int, count: int) -> Words:
        """The random words of `count` positions from an absolute one on, [count]; see `as_uniform`."""
        if position != self._next:
            self._generator = np.random.Philox(key=self._seed, counter=position // WORDS)
            self._generator.random_raw(position % WORDS)
        self._next = position + count
        return self._generator.random_raw(count)


def as_uniform(words: Words) -> Floats:
    """Numbers in [0, 1 - 2^-23] from random words, of any shape."""
    return (words >> np.uint64(64 - BITS)).astype(np.float32) * np.float32(2**-BITS)
