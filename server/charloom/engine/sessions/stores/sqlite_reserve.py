"""Reserves disk space, so that sessions can be deleted on a full disk.

On a full disk SQLite cannot even delete: a deletion is first written to the log, and the log can be reused from its
start only after the database has grown by what the log holds. So a separate file reserves as much space as the log may
need, and is removed when something has to be deleted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

RESERVE_BYTES = 8 * 2**20
"""Twice the log's size at which SQLite checkpoints it, since the log grows further if that fails."""


class Reserve:
    """The file `PATH-reserve` beside a database; all processes that share the database share it.

    Args:
        path: of the database
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(path.name + "-reserve")
        self.size = min(RESERVE_BYTES, shutil.disk_usage(path.parent).total // 4)
        """Bytes to reserve; less than `RESERVE_BYTES` on a very small disk."""
        self.spare_pages = self.size // 2**15
        """Free pages that the database must have to take new sessions while nothing is reserved; 256 on most disks."""

    @property
    def held(self) -> bool:
        """Whether the space is reserved."""
        try:
            return self._file.stat().st_size >= self.size
        except OSError:
            return False

    def hold(self) -> bool:
        """Reserve the space if twice as much is free, as the log needs some too. Returns whether it is reserved."""
        if self.held:
            return True
        try:
            if shutil.disk_usage(self._file.parent).free < 2 * self.size:
                return False
            with open(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(bytes(self.size))
        except OSError:
            self.give_up()  # a partial reserve is useless
            return False
        return True

    def give_up(self) -> None:
        """Remove the file, so that the database can use the space."""
        self._file.unlink(missing_ok=True)
