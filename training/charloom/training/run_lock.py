"""A run directory belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from charloom.training.files import CheckpointError


class RunLock:
    """Holds a run directory, making it if it is not there, until `release` or the end of the process.

    Raises:
        CheckpointError: another process holds it, or it cannot be a directory.
    """

    def __init__(self, run: Path) -> None:
        self.made = not run.exists()
        """Whether the directory is there because of this lock"""
        try:
            run.mkdir(parents=True, exist_ok=True)
            lock = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as problem:
            raise CheckpointError(
                f"{run} cannot be a run directory: {problem.strerror}; choose another --run"
            ) from problem
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            os.close(lock)
            raise CheckpointError(f"another process is training in {run}; choose another --run") from problem
        self.release = weakref.finalize(self, os.close, lock)
        """Let it go; a second time does nothing"""
