"""Seeds that nobody asked for, and those of several texts that go on from one state."""

from __future__ import annotations

import secrets

from charloom.engine.sessions.checks import SEED_BITS


def new_seed() -> int:
    """A seed that nobody asked for."""
    return secrets.randbits(SEED_BITS)


def next_seed(seed: int, number: int) -> int:
    """The seed of number `number` of several that go on from one state."""
    return int((seed + number) % 2**SEED_BITS)
