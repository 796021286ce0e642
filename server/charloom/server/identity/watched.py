"""Files that are read when the server starts, and again whenever they change."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How often the files are looked at, at most."""


class Watched(Generic[T]):
    """What some files hold, as of at most `LOOK_SECONDS` ago; `value` may be asked for by any thread.

    Files that cannot be used any more are told in the log, once for each time that they change, and what they held
    before stays: a bad edit is no reason to stop serving.

    Args:
        paths: the files
        read: reads and checks them; a ValueError of it says what is wrong with which file
        what: what they hold, for the log

    Raises:
        ValueError: they cannot be used now.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], what: str) -> None:
        self._paths, self._read, self._what = paths, read, what
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        # Before they are read: what changes meanwhile is then seen as a change.
        self._signature = self._sign()
        self._value = read()

    def value(self) -> T:
        """What the files hold."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()
        return self._value

    def look(self) -> None:
        """Look at the files now."""
        with self._lock:
            self._looked = time.monotonic()
            signature = self._sign()
            if signature == self._signature:
                return
            self._signature = signature
            try:
                self._value = self._read()
            except Exception as problem:  # even an unexpected error is no reason to stop serving
                unexpected = not isinstance(problem, (ValueError, OSError))
                said = "the %s that changed cannot be used, and those before stay in use: %s"
                log.error(said, self._what, problem, exc_info=unexpected)
            else:
                log.info("the %s have changed and are in use: %s", self._what, ", ".join(map(str, self._paths)))

    def _sign(self) -> object:
        """Something that differs once any of the files was written or replaced, or is for others to read."""
        found: list[object] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError as problem:
                found.append(problem.errno)
            else:
                found.append((status.st_ino, status.st_size, status.st_ctime_ns))
        return found
