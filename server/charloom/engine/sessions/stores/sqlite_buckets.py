"""Token buckets in the file of a SQLite store, for the processes that share it; see `Ledger` in `rates`.

A bucket is stored as the time at which it will be full again; taking tokens moves that time back. Times are
microseconds since 1970.
"""

from __future__ import annotations

import sqlite3

_TABLE = "CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, full_at REAL NOT NULL) WITHOUT ROWID"


def add_buckets(connection: sqlite3.Connection) -> None:
    """Make the table if it is missing; call it in a transaction."""
    connection.execute(_TABLE)


def spend(connection: sqlite3.Connection, name: str, tokens: float, rate: float, burst: float, now: int) -> float:
    """Take tokens from a bucket; returns what is left. Arguments as of `Ledger.spend`; call it in a transaction."""
    row = connection.execute("SELECT full_at FROM buckets WHERE name = ?", (name,)).fetchone()
    full_at = max(float(now), row[0] if row else 0.0)
    if tokens:
        full_at += tokens / rate * 1e6
        connection.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?)", (name, full_at))
    return burst - (full_at - now) / 1e6 * rate


def forget_full(connection: sqlite3.Connection, now: int) -> None:
    """Delete full buckets, since a missing bucket counts as full; call it in a transaction."""
    connection.execute("DELETE FROM buckets WHERE full_at <= ?", (now,))
