"""Places for sessions, each with its own passing of time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import redis

from charloom.engine.decoding.decoder import Shape
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.record import from_session
from charloom.engine.sessions.records import Records
from charloom.engine.sessions.sealing import new_keys
from charloom.engine.sessions.session import Call, History, Session
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Store

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
        self.clock.wall += timedelta(seconds=ticks * self.tick)
        self.clock.uptime += ticks * self.tick

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


class InFile(Place):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def make(self, capacity: int) -> SqliteStore:
        return SqliteStore(self.path, capacity, self.clock.now, LEASE, self.clock.steady, ENCRYPTED)


TIME_PASSES = """
for _, key in ipairs(redis.call('KEYS', '{charloom}:*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
end
local due = redis.call('ZRANGE', '{charloom}:due', 0, -1, 'WITHSCORES')
for at = 1, #due, 2 do redis.call('ZADD', '{charloom}:due', due[at + 1] - ARGV[1], due[at]) end
"""
"""Takes so many milliseconds off what each key has left."""


class InRedis(Place):
    """Its time is real, but nothing ends by itself there: a tick is a minute, and passes where a test says so."""

    tick = 60.0

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def make(self, capacity: int) -> RedisStore:
        return RedisStore(self.url, capacity, self.now, LEASE * self.tick, ENCRYPTED)

    async def wait(self, ticks: float) -> None:
        await super().wait(ticks)
        with redis.Redis.from_url(self.url) as client:
            most = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 0)
            client.eval(TIME_PASSES, 0, round(ticks * self.tick * 1000))
            client.config_set("maxmemory", most)


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
