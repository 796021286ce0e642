"""The rows that have a slot: ready for a tick, in a tick, or paused. Use it with the loom's lock held."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.engine.loom.row import Row, RowState


class LiveRows:
    """Holds rows from joining to leaving, and changes their state.

    Args:
        places: most rows that can be in ticks at a time
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.ready: dict[Row, None] = {}
        """In the order in which they became ready."""
        self.paused: dict[Row, None] = {}
        """In the order in which they were paused."""
        self.ticking = 0
        """Number of rows in ticks."""
        self.ticks = 0
        """Number of ticks in progress."""

    def __len__(self) -> int:
        """Number of live rows."""
        return len(self.ready) + self.ticking + len(self.paused)

    @property
    def unpaused(self) -> int:
        """Number of rows that are not paused."""
        return len(self.ready) + self.ticking

    @property
    def free(self) -> int:
        """Number of free places; negative where more rows than places are unpaused."""
        return self.places - self.unpaused

    def join(self, row: Row) -> None:
        """Add a row, ready for a tick."""
        row.change(RowState.READY)
        self.ready[row] = None

    def resume(self, row: Row) -> None:
        """Make a paused row ready again."""
        del self.paused[row]
        self.join(row)

    def begin_tick(self, rows: Sequence[Row]) -> None:
        """Move ready rows into a tick."""
        for row in rows:
            row.change(RowState.TICKING)
            del self.ready[row]
        self.ticking += len(rows)
        self.ticks += bool(rows)

    def end_tick(self, rows: Sequence[Row]) -> bool:
        """Move rows out of their tick, except those that have left meanwhile.

        Returns:
            Whether the loom has to look at the rows again: one was cancelled or paused.
        """
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
                look = True  # its reader may have read before the row was PAUSED, without waking a worker
        return look

    def leave(self, row: Row) -> None:
        """Remove a row, whatever its state."""
        if row.state is RowState.TICKING:
            self.ticking -= 1
        self.ready.pop(row, None)
        self.paused.pop(row, None)
        row.change(RowState.LEFT)
