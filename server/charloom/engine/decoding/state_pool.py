"""The `StatePool` of decoders that compute in main memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from charloom.engine.decoding.decoder import Floats, Shape


class HostStatePool:
    """State in one array of main memory; it grows by doubling and never shrinks."""

    def __init__(self, shape: Shape, slots: int = 16) -> None:
        self._state: Floats = np.zeros((shape.arrays, shape.layers, slots, shape.hidden), np.float32)
        self._free = list(range(slots))

    def take(self, state: Floats) -> int:
        """Put a state [A, L, H] into a free slot and return the slot."""
        if not self._free:
            slots = self._state.shape[2]
            self._state = np.concatenate([self._state, np.zeros_like(self._state)], axis=2)
            self._free = list(range(slots, 2 * slots))
        slot = self._free.pop()
        self._state[:, :, slot] = state
        return slot

    def release(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def gather(self, slots: Sequence[int]) -> Floats:
        """A copy of the state of these slots, [A, L, B, H]."""
        return self._state.take(slots, axis=2)

    def scatter(self, slots: Sequence[int], state: Floats) -> None:
        """Put a state [A, L, B, H] back."""
        self._state[:, :, slots] = state

    def to_host(self, part: Floats) -> Floats:
        """A copy of a part of a gathered or computed state."""
        return part.copy()

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return int(self._state.shape[2]) - len(self._free)
