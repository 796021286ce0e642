"""Random numbers as a function of seed and position: uniform(seed, position).

They are those of Philox4x64-10, a counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy as 1,
2, 3").

Because a number depends on the seed and the absolute position alone, there is nothing to carry with a session, and
replaying a position gives the same number.
"""

from __future__ import annotations

import numpy as np

from charloom.engine.decoding.decoder import Floats

WORDS = 4
"""Random words of one counter value: position p has word p % 4 of counter p // 4."""
BITS = 23
"""Of a number, so that a number times a float32 total is always below that total."""


class Uniforms:
    """Makes the numbers of any seed at any positions; for one thread at a time.

    It holds one generator and sets it to the wanted place, which takes a tenth of the time that a new generator does.
    """

    def __init__(self) -> None:
        self._generator = np.random.Philox(key=0)
        self._state = self._generator.state
        """As `Philox` makes it: no word of the counter's block is in the buffer yet."""

    def at(self, seed: int, position: int, count: int) -> Floats:
        """The numbers of `count` positions from an absolute one on, [count], each in [0, 1 - 2^-23].

        Args:
            seed: 64 bits, the generator's key
            position: the first
            count: how many
        """
        place = self._state["state"]
        place["key"][0], place["counter"][0] = seed, position // WORDS
        self._generator.state = self._state
        skipped = position % WORDS
        words = self._generator.random_raw(skipped + count)[skipped:]
        return (words >> np.uint64(64 - BITS)).astype(np.float32) * np.float32(2**-BITS)
