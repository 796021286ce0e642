"""The keys that seal states and encrypt session records, read again when their file changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from charloom.engine.sessions.sealing import read_keys
from charloom.server.identity.secret_files import require_secret
from charloom.server.identity.watched import Watched


class SealingKeys(Sequence[bytes]):
    """The keys that a file has now, the newest first.

    Args:
        path: the file, as `read_keys` takes it

    Raises:
        ValueError: it cannot be read, everybody can read it, or it has no keys.
    """

    def __init__(self, path: Path) -> None:
        self._watched = Watched([path], lambda: _read(path), "sealing keys")

    def look(self) -> None:
        """Look at the file now."""
        self._watched.look()

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self._watched.value()[index]

    def __len__(self) -> int:
        return len(self._watched.value())


def _read(path: Path) -> tuple[bytes, ...]:
    require_secret(path, ValueError)
    try:
        return tuple(read_keys(path))
    except OSError as problem:
        raise ValueError(f"cannot read {path}: {problem.strerror}") from problem
