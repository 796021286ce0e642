"""The rows that have a slot: ready for a tick, in one, or paused. All of it belongs to the loom's lock."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.engine.loom.row import Row, RowState


class LiveRows:
    """Rows from their joining to their leaving; it changes their state.

    Args:
        places: how many can be in ticks at a time
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.ready: dict[Row, None] = {}
        """In the order in which they became so."""
        self.paused: dict[Row, None] = {}
        """In the order in which they became so."""
        self.ticking = 0
        """How many rows are in ticks."""
        self.ticks = 0
        """How many ticks have them."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ready) + self.ticking + len(self.paused)

    @property
    def unpaused(self) -> int:
        """How many can be in ticks."""
        return len(self.ready) + self.ticking

    @property
    def free(self) -> int:
        """Places that are left; below 0, by how many the rows exceed them."""
        return self.places - self.unpaused

    def join(self, row: Row) -> None:
        """Have one more."""
        row.change(RowState.READY)
        self.ready[row] = None

    def resume(self, row: Row) -> None:
        """Let a paused one go on."""
        del self.paused[row]
        self.join(row)

    def begin_tick(self, rows: Sequence[Row]) -> None:
        """Put ready ones into a tick."""
        for row in rows:
            row.change(RowState.TICKING)
            del self.ready[row]
        self.ticking += len(rows)
        self.ticks += bool(rows)

    def end_tick(self, rows: Sequence[Row]) -> bool:
        """Take those that are still here out of their tick; whether any of them is to be looked at once more."""
        look = False
        self.ticks -= bool(rows)
        for row in rows:
            if row.state is RowState.LEFT:
                continue
            self.ticking -= 1
            if row.runnable:
                self.join(row)
                look |= row.cancelled
            else:
                row.change(RowState.PAUSED)
                self.paused[row] = None
                look = True  # its reader may have read before it could see that
        return look

    def leave(self, row: Row) -> None:
        """Have one less, whatever it is in."""
        if row.state is RowState.TICKING:
            self.ticking -= 1
        self.ready.pop(row, None)
        self.paused.pop(row, None)
        row.change(RowState.LEFT)
