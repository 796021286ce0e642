"""Random numbers without a generator's state: uniform(seed, position).

Knows: Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"). Does not know: sampling.

Because a number is a function of the seed and the absolute position alone, there is nothing to carry with a session,
and replaying a position gives the same number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from charloom.engine.decoder import Floats

Words = npt.NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
ROUNDS = 10


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 on arrays of 32-bit words held in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = _MULTIPLIERS[0] * c0
        p1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _KEY_STEPS[0]) & _LOW
        k1 = (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64], count: int) -> Floats:
    """Uniform numbers for `count` positions of each row, from its own position on.

    One Philox block covers four positions: block `position // 4`, word `position % 4`. Numbers have 23 bits, so that
    a number times a float32 total is always below that total.

    Args:
        seeds: [B]
        positions: [B], the absolute position of each row's first number
        count: K

    Returns:
        [K, B], in [0, 1 - 2^-23]
    """
    four = np.uint64(4)
    lane = positions % four
    blocks = (count + 3) // 4 + 1
    block = positions // four + np.arange(blocks, dtype=np.uint64)[:, None]
    zero = np.zeros_like(block)
    words = philox((block & _LOW, block >> _HALF, zero, zero), (seeds & _LOW, seeds >> _HALF))
    flat = np.stack(words, axis=1).reshape(blocks * 4, len(seeds))
    picked = np.take_along_axis(flat, (lane + np.arange(count, dtype=np.uint64)[:, None]).astype(np.int64), axis=0)
    return ((picked >> np.uint64(9)).astype(np.float32)) * np.float32(2**-23)
