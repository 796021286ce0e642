"""Sessions in memory, which a file keeps from the end of a server to the start of the next.

The file is a header (magic, version, number of sessions), the sessions, and a SHA-256 of all that. A session is the
lengths of two parts, then its tenant, id and owner as JSON, then its record as in the other stores. The file exists
only while no server runs: a server reads and removes it when it starts. So no later server continues from outdated
states, and nothing that is deleted meanwhile is still in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from charloom.engine.clock import utc_now
from charloom.engine.sessions.records import Records, Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.shares import Share

log = logging.getLogger(__name__)

_MAGIC, _VERSION = b"CLSM", 1
_HEADER, _LENGTHS = struct.Struct("<4sBI"), struct.Struct("<II")
_ADVICE = "put a good one in its place, or move it away to start without its sessions"


class OwnedSession(NamedTuple):
    """A session, and the caller that it counts against."""

    session: Session
    owner: Share


class MemoryFileStore(MemoryStore):
    """A `MemoryStore` that starts with the sessions of a file, and writes its sessions there when it is closed.

    Args:
        path: of the file; its folder must exist
        capacity, now, most_memory: as of `MemoryStore`; all sessions of the file are kept, even if they exceed these
        records: how sessions are written

    Raises:
        OSError: the file cannot be read or made, or another server uses it.
        ValueError: it is damaged, something else, or of another version; it is left unchanged.
    """

    def __init__(
        self,
        path: Path,
        capacity: int,
        records: Records,
        now: Callable[[], datetime] = utc_now,
        most_memory: int | None = None,
    ) -> None:
        super().__init__(capacity, now, most_memory)
        self._path = path.absolute()
        self._records = records
        self._lock = _lock(self._path)
        try:
            if self._path.exists():
                for session, owner in read_sessions(self._path, records):
                    self._keep(session, owner)
                self._path.unlink()
                log.info("%d sessions were taken up from %s", len(self), self._path)
        except BaseException:
            os.close(self._lock)
            raise

    async def close(self) -> None:
        """Write the sessions to the file.

        Raises:
            OSError: they could not be written, and are lost.
        """
        kept = [OwnedSession(self._sessions[key], self._owners[key]) for key in self._keys]
        try:
            await asyncio.to_thread(write_sessions, self._path, self._records, kept)
        except OSError as problem:
            raise OSError(
                f"cannot write {len(kept)} sessions to {self._path}, and they are lost: {problem.strerror}"
            ) from problem
        finally:
            os.close(self._lock)
        log.info("%d sessions were written to %s", len(kept), self._path)


def write_sessions(path: Path, records: Records, kept: list[OwnedSession]) -> None:
    """Write the file atomically, readable only by its owner.

    Raises:
        OSError: it cannot be written.
    """
    new = _beside(path, ".new")
    new.unlink(missing_ok=True)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            digest = hashlib.sha256()
            for part in _parts(kept, records):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_sessions(path: Path, records: Records) -> list[OwnedSession]:
    """Read the sessions in a file, in the order of their keys.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, something else, of another version, or needs a missing key.
    """
    where = f"cannot take up the sessions in {path}"
    try:
        with path.open("rb") as file:
            return [*_sessions(_Digested(file), records)]
    except OSError as problem:
        raise OSError(f"{where}: {problem.strerror}") from problem
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}; {_ADVICE}") from problem


def look_at_file(path: Path, records: Records) -> str:
    """Check, without changing anything, that a store can start with a file; returns a description for the user.

    Raises:
        OSError, ValueError: as `MemoryFileStore`; but a file that another server uses is no error here.
    """
    lock = _beside(path, ".lock")
    if lock.exists():
        number = os.open(lock, os.O_RDWR)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"in memory, and at the end in {path}, which a server uses now"
        finally:
            os.close(number)
    if path.exists():
        return f"in memory, with the {len(read_sessions(path, records))} sessions in {path}"
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise OSError(f"cannot keep sessions in {path}: no file can be made in {path.absolute().parent}")
    return f"in memory, and at the end in {path}"


def _parts(kept: list[OwnedSession], records: Records) -> Iterator[bytes]:
    yield _HEADER.pack(_MAGIC, _VERSION, len(kept))
    for session, owner in kept:
        told = {"tenant": session.tenant, "id": session.id, "owner": owner.name}
        text, record = json.dumps(told).encode(), records.pack(session)
        yield _LENGTHS.pack(len(text), len(record))
        yield text
        yield record


class _Digested:
    """Reads a file from its start, and computes the digest of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._digest = hashlib.sha256()

    def take(self, count: int) -> bytes:
        if self._file.tell() + count > self._size:
            raise ValueError("it was damaged: it ends too early")
        data = self._file.read(count)
        self._digest.update(data)
        return data

    def require_end(self) -> None:
        if self._file.read() != self._digest.digest():
            raise ValueError("it was damaged")


def _sessions(file: _Digested, records: Records) -> Iterable[OwnedSession]:
    magic, version, count = _HEADER.unpack(file.take(_HEADER.size))
    if magic != _MAGIC:
        raise ValueError("it is something else")
    if version != _VERSION:
        raise ValueError(f"it has version {version}, this server reads {_VERSION}")
    for _ in range(count):
        length, record = _LENGTHS.unpack(file.take(_LENGTHS.size))
        try:
            told = json.loads(file.take(length))
            key, owner = Key(told["tenant"], told["id"]), Share(told["owner"])
        except (KeyError, TypeError, ValueError, RecursionError) as problem:
            raise ValueError("it was damaged") from problem
        found = records.read(key, file.take(record))
        if isinstance(found, Unreadable):
            raise ValueError(found.problem)
        yield OwnedSession(found, owner)
    file.require_end()


def _lock(path: Path) -> int:
    """Lock the file against other servers; returns the descriptor whose closing unlocks it.

    Raises:
        OSError: another server has it, or no file can be made in the folder.
    """
    where = f"cannot keep sessions in {path}"
    try:
        number = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as problem:
        raise OSError(f"{where}: {problem.strerror}") from problem
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(number)
        raise OSError(f"{where}: another server keeps its own there; name another file") from problem
    return number


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
