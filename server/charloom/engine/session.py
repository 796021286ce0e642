"""A session as a value.

Knows: what a generation goes on from. Does not know: where sessions are kept, how text is generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from charloom.engine.decoder import Floats, Shape


@dataclass(frozen=True)
class Snapshot:
    """All that decides how a text goes on. The arrays are never written to."""

    h: Floats
    """[L, H]"""
    c: Floats
    """[L, H]"""
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
        zeros = np.zeros((shape.layers, shape.hidden), np.float32)
        return cls(zeros, zeros, (start_token,), 0, seed)


@dataclass(frozen=True)
class Session:
    """A snapshot under an id. Every change makes a new value with the next version."""

    id: str
    model: str
    model_digest: str
    snapshot: Snapshot
    version: int
    created: datetime
    updated: datetime
    time_to_live: timedelta
    expires: datetime
