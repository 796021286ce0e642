"""What callers have of something that there is only so much of, and who may have more."""

from __future__ import annotations

from charloom.engine.shares import Share


def fits(most: int, beyond: int, total: int, own: int, part: float, count: int) -> bool:
    """Whether a caller may have so much more, as `Parts` says.

    Args:
        most: how much there is
        beyond: how much may be taken in all
        total: how much is taken
        own: how much of it the caller has
        part: the caller's, of all
        count: how much more
    """
    if total + count <= most:
        return True
    return total + count <= beyond and own + count <= most * part


class Parts:
    """Counts for each caller what it has.

    There is room until all is taken; then still for a caller that has less than its part, which is all of it divided by
    the number of those that have any, up to a bound of all. So whoever takes everything keeps nobody else out.

    Args:
        most: how much there is
        beyond: how much may be taken in all; twice as much if not given
    """

    def __init__(self, most: int, beyond: int | None = None) -> None:
        self._most = most
        self._beyond = 2 * most if beyond is None else beyond
        self._total = 0
        self._of: dict[str, int] = {}

    @property
    def total(self) -> int:
        """How much is taken."""
        return self._total

    def of(self, share: Share) -> int:
        """How much a caller has."""
        return self._of.get(share.name, 0)

    def fits(self, share: Share, count: int = 1) -> bool:
        """Whether a caller may have so much more."""
        own = self.of(share)
        callers = len(self._of) + (share.name not in self._of)
        return fits(self._most, self._beyond, self._total, own, 1 / callers, count)

    def add(self, share: Share, count: int = 1) -> None:
        """A caller has so much more."""
        self._of[share.name] = self._of.get(share.name, 0) + count
        self._total += count

    def remove(self, share: Share, count: int = 1) -> None:
        """A caller has so much less."""
        self._of[share.name] -= count
        self._total -= count
        if not self._of[share.name]:
            del self._of[share.name]
