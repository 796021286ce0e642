"""A part of the disk that is kept for the day when the disk is full.

On a full disk SQLite cannot even delete: what it deletes is first written to its log, and the log can be written from
its start again only after the database has grown by what the log holds. So a file of its own keeps as much as the log
may hold, and is given up when something is to be deleted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RESERVE_BYTES = 8 * 2**20
"""Twice what the log has before SQLite writes it to the database: it grows on where that fails."""


class Reserve:
    """The file `PATH-reserve` beside a database; all processes that share the database share it.

    Args:
        path: of the database
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + "-reserve")
        self.size = min(RESERVE_BYTES, shutil.disk_usage(path.parent).total // 4)
        """Bytes: less than usual on a very small disk."""
        self.spare_pages = self.size // 2**15
        """Free pages inside the database that admit new sessions while the space is not kept; 256 on most disks."""

    @property
    def held(self) -> bool:
        """Whether the space is kept."""
        try:
            return self._file.stat().st_size >= self.size
        except OSError:
            return False

    def hold(self) -> bool:
        """Keep the space, if there is twice as much: the log needs some too. Returns whether it is kept."""
        if self.held:
            return True
        try:
            if shutil.disk_usage(self._file.parent).free < 2 * self.size:
                return False
            with open(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(bytes(self.size))
        except OSError:
            self.give_up()  # a part of it is of no use
            return False
        return True

    def give_up(self) -> None:
        """Leave the space to the database."""
        self._file.unlink(missing_ok=True)
