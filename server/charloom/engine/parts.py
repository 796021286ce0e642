"""Divides a scarce resource between callers: counts what each has, and decides who may have more."""

from __future__ import annotations

from charloom.engine.shares import Share


def fits(most: int, beyond: int, total: int, own: int, part: float, count: int) -> bool:
    """Whether a caller may have `count` more, by the rule of `Parts`.

    Args:
        most, beyond: as of `Parts`
        total: how much all callers have
        own: how much this caller has
        part: this caller's part of `most`, from 0 to 1
        count: how much more it wants
    """
    if total + count <= most:
        return True
    return total + count <= beyond and own + count <= most * part


class Parts:
    """Counts what each caller has.

    Every caller may have more until `most` is taken. From then on, until `beyond` is taken, only callers may that have
    less than their part: `most` divided by the number of callers that have anything. So a caller that takes everything
    does not keep others out.

    Args:
        most: how much callers may take without regard to their parts
        beyond: how much may be taken in all; default: twice `most`
    """

    def __init__(self, most: int, beyond: int | None = None) -> None:
        self._most = most
        self._beyond = 2 * most if beyond is None else beyond
        self._total = 0
        self._of: dict[str, int] = {}

    @property
    def total(self) -> int:
        """How much all callers have."""
        return self._total

    def of(self, share: Share) -> int:
        """How much a caller has."""
        return self._of.get(share.name, 0)

    def fits(self, share: Share, count: int = 1) -> bool:
        """Whether a caller may have `count` more."""
        own = self.of(share)
        callers = len(self._of) + (share.name not in self._of)
        return fits(self._most, self._beyond, self._total, own, 1 / callers, count)

    def add(self, share: Share, count: int = 1) -> None:
        """Count that a caller has `count` more."""
        self._of[share.name] = self._of.get(share.name, 0) + count
        self._total += count

    def remove(self, share: Share, count: int = 1) -> None:
        """Count that a caller has `count` less."""
        self._of[share.name] -= count
        self._total -= count
        if not self._of[share.name]:
            del self._of[share.name]
