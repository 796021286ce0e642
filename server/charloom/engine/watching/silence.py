"""Finds sources that have become silent; each is reported once, until it is heard again.

Knows: names and times. Does not know: lines, clocks, sessions.
"""

from __future__ import annotations

import sys

LONGEST_NAME = 200
"""Characters of a name that are kept for the report."""
_ENTRY = 300
"""Bytes of a source besides its name: its key and its time, and its entry in the table."""


class Silence:
    """The sources, in the order in which they were last heard.

    Args:
        after: seconds without a line after which a source is silent
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._last: dict[str, tuple[float, str]] = {}
        self.memory = 0
        """Upper bound of the bytes that it takes."""

    def heard(self, key: str, name: str, now: float) -> None:
        """Take note that a source has a new line.

        Args:
            key: identifies the source
            name: its name in reports
            now: the time in seconds, not before that of the last call
        """
        self._forget(key)
        name = name[:LONGEST_NAME]
        self._last[key] = (now, name)
        self.memory += _ENTRY + sys.getsizeof(name)

    def fallen(self, now: float, most: int) -> list[str]:
        """The names of up to `most` silent sources that were not reported yet; longest silent first."""
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
