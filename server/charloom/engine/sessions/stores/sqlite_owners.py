"""Counts the sessions of each caller in a SQLite store, and decides whether a caller may add more.

Triggers update the counts in the same transaction, so that reading a count reads one row.
"""

from __future__ import annotations

import sqlite3

from charloom.engine.errors import EngineError
from charloom.engine.parts import fits
from charloom.engine.quotas import Kept, QuotaExceeded, require_kept
from charloom.engine.sessions.session import Session
from charloom.engine.sessions.stores.store import full
from charloom.engine.shares import Share

_OWNER = "CASE {0} WHEN '' THEN '' ELSE 'tenant ' || {0} END"
"""SQL for the name of a tenant's share, as `name_of_tenant`."""
_GAIN = """INSERT INTO owners VALUES (NEW.owner, 1, NEW.bytes)
            ON CONFLICT (name) DO UPDATE SET sessions = sessions + 1, bytes = bytes + excluded.bytes"""
_LOSS = """UPDATE owners SET sessions = sessions - 1, bytes = bytes - OLD.bytes WHERE name = OLD.owner;
        DELETE FROM owners WHERE name = OLD.owner AND sessions = 0"""

_TABLES = (
    # The owner and size of each session. A server of version 0.1 that shares the file does not know these tables: its
    # sessions are counted for their tenant, and triggers keep the sums right, whatever is done to `sessions`.
    """CREATE TABLE holdings (session INTEGER PRIMARY KEY, owner TEXT NOT NULL, bytes INTEGER NOT NULL)""",
    """CREATE TABLE owners (
        name TEXT PRIMARY KEY, sessions INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "ALTER TABLE counters ADD COLUMN owners INTEGER NOT NULL DEFAULT 0",
    """CREATE TRIGGER owner_added AFTER INSERT ON owners BEGIN
        UPDATE counters SET owners = owners + 1;
    END""",
    """CREATE TRIGGER owner_forgotten AFTER DELETE ON owners BEGIN
        UPDATE counters SET owners = owners - 1;
    END""",
    f"""CREATE TRIGGER holding_added AFTER INSERT ON holdings BEGIN
        {_GAIN};
    END""",
    f"""CREATE TRIGGER holding_forgotten AFTER DELETE ON holdings BEGIN
        {_LOSS};
    END""",
    f"""CREATE TRIGGER holding_changed AFTER UPDATE ON holdings BEGIN
        {_GAIN};
        {_LOSS};
    END""",
    f"INSERT INTO holdings SELECT number, {_OWNER.format('tenant')}, length(record) FROM sessions JOIN records "
    "ON session = number",
    f"""CREATE TRIGGER session_owned AFTER INSERT ON sessions BEGIN
        INSERT INTO holdings VALUES (NEW.number, {_OWNER.format("NEW.tenant")}, 0);
    END""",
    """CREATE TRIGGER session_disowned AFTER DELETE ON sessions BEGIN
        DELETE FROM holdings WHERE session = OLD.number;
    END""",
)


def add_owners(connection: sqlite3.Connection) -> None:
    """Make the tables if they are missing, and count present sessions for their tenants; call it in a transaction."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'owners'").fetchone()[0]:
        for statement in _TABLES:
            connection.execute(statement)


def hold(connection: sqlite3.Connection, number: int | None, session: Session, owner: str | None = None) -> None:
    """Update the counted bytes of a session, and its owner if one is given."""
    size = session.memory
    connection.execute(
        "UPDATE holdings SET bytes = ?, owner = coalesce(?, owner) WHERE session = ? AND (bytes != ? OR ? IS NOT NULL)",
        (size, owner, number, size, owner),
    )


def kept_for_all(connection: sqlite3.Connection) -> int:
    """Number of sessions of all callers."""
    count: int = connection.execute("SELECT sessions FROM counters").fetchone()[0]
    return count


def kept_for(connection: sqlite3.Connection, share: Share) -> Kept:
    """Number and bytes of a caller's sessions."""
    row = connection.execute("SELECT sessions, bytes FROM owners WHERE name = ?", (share.name,)).fetchone()
    return Kept(0, 0) if row is None else Kept(*row)


def refusal(connection: sqlite3.Connection, capacity: int, share: Share, more: Kept) -> EngineError | None:
    """The error if a caller may not add so much; None if it may.

    Args:
        connection: to the file
        capacity: of the store
        share: the caller
        more: number and bytes of the sessions to add
    """
    kept = kept_for(connection, share)
    try:
        require_kept(share.quota, kept, more)
    except QuotaExceeded as problem:
        return problem
    total, owners = connection.execute("SELECT sessions, owners FROM counters").fetchone()
    part = 1 / (owners + (not kept.sessions))
    if fits(capacity, 2 * capacity, total, kept.sessions, part, more.sessions):
        return None
    return full(total)
