"""All that decides how a text goes on, as a value."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from charloom.controls.adaptation import state_size
from charloom.engine.decoding.decoder import Floats, Shape


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that decides how a text goes on. The arrays are never written to."""

    state: Floats
    """[A, L, H], the arrays of the cell: one array, because there may be very many snapshots"""
    pending: tuple[int, ...]
    """Tokens chosen or fed, but not yet read by the network, oldest first; at least one."""
    position: int
    """Tokens fed and generated since the state was zero, the pending ones included."""
    seed: int
    tail: bytes = b""
    """Bytes of a character that is not complete yet; they open the text of the next generation."""
    learnt: Floats | None = None
    """[S], what it has learnt from its text up to the first pending token; None: it does not learn. Never written to"""

    @classmethod
    def fresh(cls, shape: Shape, start_token: int, seed: int, *, adaptive: bool = False) -> Snapshot:
        """Zero state, before any text."""
        return replace(_zero(shape, start_token, adaptive), seed=seed)

    @property
    def behind(self) -> int:
        """Pending tokens that are read before any new one: all but one, which is read with what comes next."""
        return len(self.pending) - 1

    @property
    def learnt_bytes(self) -> int:
        """Memory that `learnt` takes."""
        return 0 if self.learnt is None else self.learnt.nbytes

    def misfit(self, shape: Shape) -> str:
        """Why no decoder of these sizes can go on with it; empty where one can."""
        own, learnt = (shape.arrays, shape.layers, shape.hidden), state_size(shape.vocabulary)
        if self.state.shape != own:
            return f"its state has the sizes {_sizes(self.state.shape)}, and the model's {_sizes(own)}"
        if self.learnt is not None and self.learnt.shape != (learnt,):
            return f"what it has learnt are {self.learnt.size} numbers, and the model's sessions have {learnt}"
        if not self.pending or max(self.pending) >= shape.vocabulary:
            return f"its pending tokens are not of the model's {shape.vocabulary} symbols"
        return ""


def _sizes(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


@functools.lru_cache
def _zero(shape: Shape, start_token: int, adaptive: bool) -> Snapshot:
    state = np.zeros((shape.arrays, shape.layers, shape.hidden), np.float32)
    learnt = np.zeros(state_size(shape.vocabulary), np.float32) if adaptive else None
    for array in (state, learnt):
        if array is not None:
            array.flags.writeable = False
    return Snapshot(state, (start_token,), 0, 0, learnt=learnt)
