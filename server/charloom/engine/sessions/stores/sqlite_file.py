"""The file of the SQLite store: its schema, and opening it."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from pathlib import Path

from charloom.engine.sessions.stores.sqlite_buckets import add_buckets
from charloom.engine.sessions.stores.sqlite_owners import add_owners
from charloom.engine.sessions.stores.sqlite_reserve import Reserve

APPLICATION_ID = int.from_bytes(b"CLst", "big")
SCHEMA_VERSION = 1
PATIENCE = 2.0
"""Seconds to wait for another process's transaction."""
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
"""The latter two: errors of SQLite for an exceeded quota, and for a full disk when its shared memory has to grow."""
_WAL_BYTES = 16 * 2**20
"""The WAL is truncated to this size if many sessions at once have made it longer."""

_SCHEMA = (
    # Times are microseconds: `expires` and `at` since 1970, `lease_until` of the monotonic clock.
    # `fence` is that of the newest lease; `held`: that lease was not given back.
    """CREATE TABLE sessions (
        number INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        expires INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        held INTEGER NOT NULL,
        lease_until INTEGER NOT NULL,
        call_id TEXT NOT NULL,
        UNIQUE (tenant, id)
    )""",
    "CREATE INDEX sessions_by_expiry ON sessions (expires)",
    "CREATE TABLE records (session INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    # `fence` is that of a lease that had ended without being given back: its holder may still write the session.
    """CREATE TABLE tombstones (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        at INTEGER NOT NULL,
        fence INTEGER NOT NULL,
        PRIMARY KEY (tenant, id)
    ) WITHOUT ROWID""",
    "CREATE INDEX tombstones_by_time ON tombstones (at)",
    "CREATE TABLE counters (fence INTEGER NOT NULL, sessions INTEGER NOT NULL)",
    "INSERT INTO counters VALUES (0, 0)",
    """CREATE TRIGGER session_added AFTER INSERT ON sessions BEGIN
        UPDATE counters SET sessions = sessions + 1;
    END""",
    """CREATE TRIGGER session_forgotten AFTER DELETE ON sessions BEGIN
        DELETE FROM records WHERE session = OLD.number;
        UPDATE counters SET sessions = sessions - 1;
    END""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


def open_file(path: Path) -> tuple[sqlite3.Connection, Reserve]:
    """Open the file, and make it with its tables if it is missing; returns the connection, and the disk's reserve.

    Raises:
        OSError: it cannot be opened or made.
        ValueError: it is something else, or of another version.
    """
    where = f"cannot keep sessions in {path}"
    try:
        if not path.exists():
            _require_no_log(path, where)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # private: it will hold people's texts
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    except OSError as problem:
        if problem.errno is None:  # raised by `_require_no_log`, with its message
            raise
        raise OSError(f"{where}: {problem.strerror}") from problem
    except sqlite3.Error as problem:
        raise OSError(f"{where}: {problem}") from problem
    reserve = Reserve(path)
    try:
        try:
            _set_up(connection, where, reserve)
        except sqlite3.Error as problem:
            if not is_full(problem):
                raise
            reserve.give_up()  # opening the file needs some room too
            _set_up(connection, where, reserve)
    except sqlite3.OperationalError as problem:
        connection.close()
        raise OSError(f"{where}: {problem}") from problem
    except sqlite3.DatabaseError as problem:
        connection.close()
        raise ValueError(f"{where}: {problem}; name another file") from problem
    except BaseException:
        connection.close()
        raise
    return connection, reserve


def look_at_file(path: Path) -> None:
    """Check, without changing anything, that `open_file` can open a file, or make it.

    Raises:
        OSError, ValueError: as `open_file`.
    """
    where = f"cannot keep sessions in {path}"
    if not path.exists():
        _require_no_log(path, where)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(f"{where}: no file can be made in {path.parent.absolute()}")
        return
    if not os.access(path, os.R_OK | os.W_OK):
        raise OSError(f"{where}: {os.strerror(errno.EACCES)}")
    try:
        # SQLite would make a log beside the file, unless it is opened as immutable.
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            _require_ours(connection, where)
    except sqlite3.OperationalError as problem:
        raise OSError(f"{where}: {problem}") from problem
    except sqlite3.DatabaseError as problem:
        raise ValueError(f"{where}: {problem}; name another file") from problem


def is_full(problem: sqlite3.Error) -> bool:
    """Whether the error means that the disk is full."""
    name = getattr(problem, "sqlite_errorname", "")  # Python 3.10 has none
    return name in _FULL or "disk is full" in str(problem)


def is_busy(problem: sqlite3.Error) -> bool:
    """Whether the error means that another process has a transaction."""
    return "database is locked" in str(problem)  # Python 3.10 has no error codes


def empty_log(connection: sqlite3.Connection) -> None:
    """Checkpoint the log, so that it starts again at its beginning and takes no more of the disk."""
    with contextlib.suppress(sqlite3.Error):  # the next transaction shows whether it helped
        connection.execute("PRAGMA wal_checkpoint(RESTART)")


def identity(path: Path) -> tuple[tuple[int, int], ...] | None:
    """Device and inode of a database, its log and the log's index; None if one of them is gone.

    SQLite keeps using files that were removed or replaced.
    """
    try:
        return tuple((at.st_dev, at.st_ino) for at in (os.stat(_beside(path, end)) for end in ("", "-wal", "-shm")))
    except OSError:
        return None


def _require_no_log(path: Path, where: str) -> None:
    """Raise OSError if there is a log without its database."""
    log = _beside(path, "-wal")
    if log.exists() and not path.exists():  # checked again: another process may just have made both
        raise OSError(
            f"{where}: the file is gone, but its log {log} is there; put the file back, "
            f"or remove {log} and {_beside(path, '-shm')} to start without sessions"
        )


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _set_up(connection: sqlite3.Connection, where: str, reserve: Reserve) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    # Before anything is changed: the file may be another program's.
    _require_ours(connection, where)
    mode = _to_wal(connection)
    if mode != "wal":
        raise OSError(f"{where}: there, SQLite cannot use WAL mode; it has to be a disk of this machine")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute(f"PRAGMA wal_autocheckpoint = {max(1, reserve.size // 2 // page)}")
    connection.execute("BEGIN IMMEDIATE")
    if not _require_ours(connection, where):
        for statement in _SCHEMA:
            connection.execute(statement)
    add_owners(connection)  # files of version 0.1 lack these tables
    add_buckets(connection)
    connection.execute("COMMIT")
    reserve.hold()


def _require_ours(connection: sqlite3.Connection, where: str) -> bool:
    """Whether the tables exist; raises if it is another program's database."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (empty,) = connection.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()
    if empty and not application and not version:
        return False
    if application != APPLICATION_ID:
        raise ValueError(f"{where}: it is a database of something else; name another file")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{where}: it has version {version}, this server reads {SCHEMA_VERSION}; name another file")
    return True


def _to_wal(connection: sqlite3.Connection) -> str:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError:  # another process starts too; SQLite does not wait for it here by itself
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
