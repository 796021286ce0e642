"""The `StatePool` of decoders that compute in main memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charloom.engine.decoding.decoder import Floats, Shape


class HostStatePool:
    """State in two arrays of main memory; they grow by doubling and never shrink."""

    def __init__(self, shape: Shape, slots: int = 16) -> None:
        self._h: Floats = np.zeros((shape.layers, slots, shape.hidden), np.float32)
        self._c: Floats = np.zeros_like(self._h)
        self._free = list(range(slots))

    def take(self, h: Floats, c: Floats) -> int:
        """Put a state [L, H] into a free slot and return the slot."""
        if not self._free:
            slots = self._h.shape[1]
            self._h = np.concatenate([self._h, np.zeros_like(self._h)], axis=1)
            self._c = np.concatenate([self._c, np.zeros_like(self._c)], axis=1)
            self._free = list(range(slots, 2 * slots))
        slot = self._free.pop()
        self._h[:, slot], self._c[:, slot] = h, c
        return slot

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def gather(self, slots: Sequence[int]) -> tuple[Floats, Floats]:
        """Copies of h and c [L, B, H] of these slots."""
        return self._h[:, slots], self._c[:, slots]

    def scatter(self, slots: Sequence[int], h: Floats, c: Floats) -> None:
        """Put h and c [L, B, H] back."""
        self._h[:, slots], self._c[:, slots] = h, c

    def to_host(self, part: Floats) -> Floats:
        """A copy of a part of a gathered or computed state."""
        return part.copy()

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return int(self._h.shape[1]) - len(self._free)
