"""Places for sessions, each with its own passing of time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from charloom.engine.decoding.decoder import Shape
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.record import from_session
from charloom.engine.sessions.records import Records
from charloom.engine.sessions.sealing import new_keys
from charloom.engine.sessions.session import Call, History, Key, Session
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS, Store
from tests.unit.engine.redis_server import RedisServer

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
LEASE = 6.0
"""A lease in ticks, the unit of all times here."""
SHAPE = Shape(2, 2, 4, 30)
ENCRYPTED = Records(new_keys())


class Clock:
    """All clocks of a machine."""

    def __init__(self) -> None:
        self.wall = START
        self.uptime = 1000.0

    def now(self) -> datetime:
        return self.wall

    def steady(self) -> float:
        return self.uptime


class Place:
    """Where sessions are, and how time passes there."""

    tick = 1.0
    """Its seconds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stores: list[Store] = []

    def open(self, capacity: int = 1000) -> Store:
        """One more replica's store, where it is shared."""
        store = self.make(capacity)
        self.stores.append(store)
        return store

    def make(self, capacity: int) -> Store:
        return MemoryStore(capacity, self.clock.now)

    def now(self) -> datetime:
        return self.clock.now()

    async def wait(self, ticks: float) -> None:
        self.clock.wall += timedelta(seconds=ticks)
        self.clock.uptime += ticks

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


class InFile(Place):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, capacity: int) -> SqliteStore:
        return SqliteStore(self.path, capacity, self.clock.now, LEASE, self.clock.steady, ENCRYPTED)


class InRedis(Place):
    """Its time is real, and long enough for a busy machine."""

    tick = 0.2

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def make(self, capacity: int) -> RedisStore:
        return RedisStore(self.url, capacity, self.now, LEASE * self.tick, ENCRYPTED)

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    async def wait(self, ticks: float) -> None:
        await asyncio.sleep(ticks * self.tick)


class FrozenRedis(InRedis):
    """One whose time passes only where a test says so: a tick is an hour."""

    tick = 3600.0

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server.url)
        server.ask("FLUSHALL")
        self.server = server

    def now(self) -> datetime:
        return self.clock.now()

    def end_lease(self, key: Key) -> None:
        self.server.ask("DEL", f"{{charloom}}:lease:{len(key.tenant)}:{key.tenant}:{key.id}")

    def end_session(self, key: Key) -> None:
        member = f"{len(key.tenant)}:{key.tenant}:{key.id}"
        self.server.ask("DEL", f"{{charloom}}:session:{member}")
        self.server.ask("PEXPIRE", f"{{charloom}}:mark:{member}", str(TOMBSTONE_SECONDS * 1000))
        self.server.ask("ZADD", "{charloom}:due", "1", member)


def made(place: Place, session_id: str, tenant: str = "", ticks: float = 60) -> Session:
    now, ttl = place.now(), timedelta(seconds=ticks * place.tick)
    snapshot = Snapshot.fresh(SHAPE, 0, seed=1)
    history = History.fresh(SHAPE, 0)
    return Session(session_id, tenant, "model", "digest", snapshot, history, 0, now, now, ttl, now + ttl)


def grown(session: Session, now: datetime, call: Call | None = None, size: int = 4) -> Session:
    """The next version, which is at the next position and has a state that tells both."""
    version = session.version + 1
    snapshot = Snapshot(np.full((2, 2, size), version, np.float32), (version,), version, 1, b"\xe2")
    return session.changed(now, snapshot, session.history, call)


def same(one: Session, other: Session) -> bool:
    return from_session(one) == from_session(other)


async def ids(store: Store, tenant: str = "") -> list[str]:
    return [session.id for session in await store.page(tenant, "", 1000)]
