"""What callers have of something that there is only so much of, and who may have more."""

from __future__ import annotations

from charloom.engine.shares import Share


class Parts:
    """Counts for each caller what it has.

    There is room until all is taken; then still for a caller that has less than its part, which is all of it divided by
    the weights of those that have any, up to a bound of all. So whoever takes everything keeps nobody else out.

    Args:
        most: how much there is
        beyond: how much may be taken in all; twice as much if not given
    """

    def __init__(self, most: int, beyond: int | None = None) -> None:
        self._most = most
        self._beyond = 2 * most if beyond is None else beyond
        self._total = 0
        self._weights = 0.0
        self._of: dict[str, int] = {}

    @property
    def total(self) -> int:
        """How much is taken."""
        return self._total

    def fits(self, share: Share, count: int = 1) -> bool:
        """Whether a caller may have so much more."""
        if self._total + count <= self._most:
            return True
        if self._total + count > self._beyond:
            return False
        own = self._of.get(share.name, 0)
        weights = self._weights + (0.0 if own else share.weight)
        return own + count <= self._most * share.weight / weights

    def add(self, share: Share, count: int = 1) -> None:
        """A caller has so much more."""
        if share.name not in self._of:
            self._weights += share.weight
        self._of[share.name] = self._of.get(share.name, 0) + count
        self._total += count

    def remove(self, share: Share, count: int = 1) -> None:
        """A caller has so much less."""
        self._of[share.name] -= count
        self._total -= count
        if not self._of[share.name]:
            del self._of[share.name]
            self._weights = self._weights - share.weight if self._of else 0.0
