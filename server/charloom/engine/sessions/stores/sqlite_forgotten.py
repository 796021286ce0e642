"""Removes sessions from a SQLite store, and keeps a tombstone of each for a while.

Call each function in a transaction, except `empty_log_for_good`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime, timedelta

from charloom.engine.clock import from_microseconds, to_microseconds
from charloom.engine.errors import SessionDeleted, SessionExpired, SessionNotFound
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS, Erased, Lease

MOST_TOMBSTONES = 1_000_000


def what_became_of(connection: sqlite3.Connection, key: Key) -> SessionNotFound:
    """The error for a session that is not there."""
    tombstone = connection.execute("SELECT kind, at FROM tombstones WHERE tenant = ? AND id = ?", key).fetchone()
    if tombstone is None:
        return SessionNotFound(key.id)
    kind, at = tombstone
    return (SessionDeleted if kind == "deleted" else SessionExpired)(key.id, from_microseconds(at))


def may_write(connection: sqlite3.Connection, lease: Lease) -> bool:
    """Whether the holder of a lease may write its session again after the session was removed."""
    tombstone = connection.execute(
        "SELECT fence FROM tombstones WHERE tenant = ? AND id = ?", lease.session.key
    ).fetchone()
    return tombstone is None or bool(tombstone[0] == lease.fence)


def sweep(connection: sqlite3.Connection, live: str, most: int, times: dict[str, int]) -> int:
    """Remove some expired sessions; returns how many.

    Args:
        connection: to the file
        live: SQL condition that a session's lease is valid
        most: most sessions to remove
        times: the parameters of the condition, and "now"
    """
    rows = connection.execute(
        f"SELECT number FROM sessions WHERE expires <= :now AND NOT ({live}) LIMIT {most}", times
    ).fetchall()
    connection.executemany(
        "INSERT OR REPLACE INTO tombstones "
        "SELECT tenant, id, 'expired', expires, fence * held FROM sessions WHERE number = ?",
        rows,
    )
    connection.executemany("DELETE FROM sessions WHERE number = ?", rows)
    return len(rows)


def drop_old_tombstones(connection: sqlite3.Connection, now: datetime, most: int) -> int:
    """Delete some tombstones that are too old or too many; returns how many."""
    old = now - timedelta(seconds=TOMBSTONE_SECONDS)
    return connection.execute(
        "DELETE FROM tombstones WHERE (tenant, id) IN (SELECT tenant, id FROM tombstones WHERE at < ? "
        "OR at <= (SELECT at FROM tombstones ORDER BY at DESC LIMIT 1 OFFSET ?) ORDER BY at LIMIT ?)",
        (to_microseconds(old), MOST_TOMBSTONES, most),
    ).rowcount


def erase(connection: sqlite3.Connection, tenant: str, most: int, now: datetime) -> list[Erased]:
    """Delete some of a tenant's sessions, and overwrite their records in the file."""
    rows = connection.execute(
        "SELECT number, id, coalesce(bytes, 0) FROM sessions LEFT JOIN holdings ON session = number "
        "WHERE tenant = ? ORDER BY id LIMIT ?",
        (tenant, most),
    ).fetchall()
    numbers = [(number,) for number, _, _ in rows]
    at = to_microseconds(now)
    connection.executemany(
        f"INSERT OR REPLACE INTO tombstones SELECT tenant, id, 'deleted', {at}, 0 FROM sessions WHERE number = ?",
        numbers,
    )
    connection.execute("PRAGMA secure_delete = ON")
    try:
        connection.executemany("DELETE FROM sessions WHERE number = ?", numbers)
    finally:
        connection.execute("PRAGMA secure_delete = OFF")
    if len(rows) < most:  # all are erased: holders of expired sessions may not write them any more either
        connection.execute("UPDATE tombstones SET fence = 0 WHERE tenant = ? AND fence != 0", (tenant,))
    return [Erased(session_id, size) for _, session_id, size in rows]


def empty_log_for_good(connection: sqlite3.Connection) -> None:
    """Checkpoint the log and truncate it, so that it does not contain what was erased; outside of a transaction."""
    with contextlib.suppress(sqlite3.Error):  # if another process is reading the log, it is overwritten later
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
