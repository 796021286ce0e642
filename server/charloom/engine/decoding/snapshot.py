"""All that decides how a text goes on, as a value."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from charloom.engine.decoding.decoder import Floats, Shape


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that decides how a text goes on. The array is never written to."""

    state: Floats
    """[A, L, H], the arrays of the cell: one array, because there may be very many snapshots"""
    pending: tuple[int, ...]
    """Tokens chosen or fed, but not yet read by the network, oldest first; at least one."""
    position: int
    """Tokens fed and generated since the state was zero, the pending ones included."""
    seed: int
    tail: bytes = b""
    """Bytes of a character that is not complete yet; they open the text of the next generation."""

    @classmethod
    def fresh(cls, shape: Shape, start_token: int, seed: int) -> Snapshot:
        """Zero state, before any text."""
        return replace(_zero(shape.arrays, shape.layers, shape.hidden, start_token), seed=seed)


@functools.lru_cache
def _zero(arrays: int, layers: int, hidden: int, start_token: int) -> Snapshot:
    zeros = np.zeros((arrays, layers, hidden), np.float32)
    zeros.flags.writeable = False
    return Snapshot(zeros, (start_token,), 0, 0)
