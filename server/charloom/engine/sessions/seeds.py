"""Random seeds, and the seeds of several texts that start from one state."""

from __future__ import annotations

import secrets

from charloom.engine.sessions.checks import SEED_BITS


def new_seed() -> int:
    """A random seed, for requests that name none."""
    return secrets.randbits(SEED_BITS)


def next_seed(seed: int, number: int) -> int:
    """The seed of text `number` (from 0) of several that start from one state with `seed`."""
    return int((seed + number) % 2**SEED_BITS)
