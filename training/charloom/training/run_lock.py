"""A run directory belongs to one run, and to one process at a time."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path

from charloom.bundle import MANIFEST_FILE
from charloom.training.files import CheckpointError
from charloom.training.run_directory import BEST_FILE, CLASSIFIER_FILE, LAST_FILE

LOCK_FILE = ".lock"
"""The first file of a run: what a directory holds beside it was left by a run that never came to a checkpoint."""
LOG_SUFFIX = ".log"
"""Of files that may be in the directory of a new run: what the command prints is often sent there."""


def require_unused(run: Path) -> None:
    """See that a directory is free for a new run: it is not there, is empty, or such a run was begun in it.

    Raises:
        CheckpointError: it holds a run, a bundle or other files.
    """
    if (run / LAST_FILE).exists():
        raise CheckpointError(
            f"{run} already holds a run; resume it with `charloom train --resume`, or choose another --run"
        )
    if (run / BEST_FILE).exists():
        raise CheckpointError(f"{run} holds the weights of another run; remove them, or choose another --run")
    if (run / CLASSIFIER_FILE).exists():
        raise CheckpointError(f"{run} already holds a classifier; choose another --run")
    if (run / MANIFEST_FILE).exists():
        raise CheckpointError(f"{run} holds a bundle; choose another --run")
    files = run.iterdir() if run.is_dir() else ()
    others = sorted(file.name for file in files if file.name[0] != "." and file.suffix != LOG_SUFFIX)
    if others and not (run / LOCK_FILE).exists():
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise CheckpointError(
            f"{run} holds files that are of no run: {others[0]}{more}; choose a new or empty directory as --run"
        )


def lock_new_run(run: Path) -> RunLock:
    """Hold a directory for a new run, making it if it is not there.

    Raises:
        CheckpointError: it holds a run, a bundle or other files, another process holds it, or it cannot be a directory.
    """
    require_unused(run)  # before the lock, which is a file too
    lock = RunLock(run)
    try:
        require_unused(run)  # another process may have filled it until now
    except BaseException:
        lock.release()
        raise
    return lock


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
            lock = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
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
