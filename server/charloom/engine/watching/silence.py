"""Which sources have said nothing for long; each is told once, until it speaks again.

Knows: names and times. Does not know: lines, clocks, sessions.
"""

from __future__ import annotations

import sys

LONGEST_NAME = 200
"""Characters of a name that are kept to be told."""
_ENTRY = 300
"""Bytes of a source besides its name: its key and its time, and its place in the table."""


class Silence:
    """Sources in the order in which they were last heard.

    Args:
        after: seconds without a line that are silence
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._last: dict[str, tuple[float, str]] = {}
        self.memory = 0
        """Bytes that it takes, from above."""

    def heard(self, key: str, name: str, now: float) -> None:
        """A source has spoken.

        Args:
            key: what tells it from all others
            name: what it is told by
            now: seconds, not before those of the last call
        """
        self._forget(key)
        name = name[:LONGEST_NAME]
        self._last[key] = (now, name)
        self.memory += _ENTRY + sys.getsizeof(name)

    def fallen(self, now: float, most: int) -> list[str]:
        """The names of up to so many sources that are silent by now and were not told; the longest silent first."""
        found: list[str] = []
        while self._last and len(found) < most:
            key, (last, name) = next(iter(self._last.items()))
            if now - last < self._after:
                break
            self._forget(key)
            found.append(name)
        return found

    def _forget(self, key: str) -> None:
        if (known := self._last.pop(key, None)) is not None:
            self.memory -= _ENTRY + sys.getsizeof(known[1])
