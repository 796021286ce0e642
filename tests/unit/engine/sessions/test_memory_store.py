"""The store in memory: how callers share it, and what it does when it is full."""

from __future__ import annotations

import asyncio
import sys
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta

import pytest

from charloom.engine.errors import Overloaded, SessionExpired
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.memory import TOMBSTONE_BYTES, MemoryStore
from charloom.engine.shares import Share, set_share
from tests.unit.engine.stores import Place, grown, made


async def add(store: MemoryStore, caller: str, *sessions: Session) -> None:
    """Add sessions as a caller."""
    context = copy_context()
    context.run(set_share, Share(caller))
    await context.run(asyncio.ensure_future, store.add(sessions))


async def fill(store: MemoryStore, caller: str, place: Place, count: int) -> int:
    """How many sessions a caller can make, of `count`."""
    for number in range(count):
        try:
            await add(store, caller, made(place, f"{caller}-{number}", ticks=7 * 24 * 3600))
        except Overloaded:
            return number
    return count


async def test_whoever_fills_the_store_for_a_week_locks_nobody_out() -> None:
    place = Place()
    store = MemoryStore(100, place.now)
    assert await fill(store, "greedy", place, 1000) == 100
    assert await fill(store, "polite", place, 40) == 40
    assert (await store.delete(Key("", "polite-7"))).id == "polite-7"
    assert len(store) == 139


async def test_a_full_store_refuses_without_looking_at_its_sessions() -> None:
    place = Place()
    store = MemoryStore(500, place.now)
    await fill(store, "greedy", place, 500)
    looked: list[Key] = []

    class Counting(dict[Key, Session]):
        def values(self) -> object:  # type: ignore[override]
            raise AssertionError("all sessions are walked")

        def get(self, key: Key, default: object = None) -> object:  # type: ignore[override]
            looked.append(key)
            return super().get(key, default)  # type: ignore[arg-type]

    store._sessions = Counting(store._sessions)
    for number in range(100):
        with pytest.raises(Overloaded):
            await add(store, "greedy", made(place, f"more-{number}"))
    assert len(looked) <= 100, "one look at each new id"


async def test_sessions_expire_by_what_their_expiry_is_now_however_often_it_changed() -> None:
    place = Place()
    store = MemoryStore(10, place.now)
    for name, ticks in (("renewed", 5), ("shortened", 50), ("left", 5), ("used", 5)):
        await store.add([made(place, name, ticks=ticks)])
    for name, ticks in (("renewed", 50), ("shortened", 3)):
        lease = await store.acquire(Key("", name))
        await store.release(lease, replace(lease.session, expires=place.now() + timedelta(seconds=ticks)))
    used = await store.acquire(Key("", "used"))
    await place.wait(4)
    assert await store.sweep() == 1
    with pytest.raises(SessionExpired):
        await store.get(Key("", "shortened"))
    await place.wait(4)
    assert await store.sweep() == 1
    assert {session.id for session in await store.page("", "", 10)} == {"renewed", "used"}
    await store.release(used, used.session)
    await place.wait(2)
    assert await store.sweep() == 1
    await place.wait(60)
    assert await store.sweep() == 1
    assert len(store) == 0
    assert store._due == []


async def test_what_is_remembered_for_sweeping_does_not_grow_with_the_changes() -> None:
    place = Place()
    store = MemoryStore(10, place.now)
    await store.add([made(place, "one", ticks=100_000)])
    for ticks in range(5000, 0, -1):
        lease = await store.acquire(Key("", "one"))
        await store.release(lease, replace(lease.session, expires=place.now() + timedelta(seconds=ticks)))
    assert len(store._due) <= 2 * 1 + 1024


async def test_sessions_take_no_more_memory_than_they_may() -> None:
    place = Place()
    each = made(place, "one").memory
    store = MemoryStore(1000, place.now, most_memory=10 * each)
    assert await fill(store, "a", place, 100) == 10
    assert store.memory == 10 * each
    await store.delete(Key("", "a-3"))
    await add(store, "a", made(place, "more"))
    with pytest.raises(Overloaded):
        await add(store, "a", made(place, "one too many"))


async def test_whoever_takes_all_memory_for_sessions_locks_nobody_out() -> None:
    place = Place()
    store = MemoryStore(1000, place.now, most_memory=16 * made(place, "one").memory)
    assert await fill(store, "greedy", place, 100) == 16
    assert await fill(store, "polite", place, 100) == 4
    await store.delete(Key("", "greedy-0"))
    with pytest.raises(Overloaded):
        await add(store, "greedy", made(place, "more"))


async def test_what_sessions_take_follows_what_they_hold() -> None:
    place = Place()
    store = MemoryStore(10, place.now)
    session = made(place, "one")
    await store.add([session])
    lease = await store.acquire(Key("", "one"))
    larger = grown(session, place.now(), size=4000)
    await store.release(lease, larger)
    assert store.memory == larger.memory >= session.memory + 4000
    await store.delete(Key("", "one"))
    assert store.memory == TOMBSTONE_BYTES


async def test_what_is_remembered_of_sessions_that_are_gone_is_counted_as_memory() -> None:
    place = Place()
    store, longest = MemoryStore(10, place.now), "x" * 128
    for number in range(2000):
        session = made(place, f"{number:06}{longest}"[:128])
        await store.add([session])
        await store.delete(session.key)
    remembered = store._tombstones
    parts = [part for key, what in remembered.items() for part in (key, key.id, what, what[1])]
    size = sys.getsizeof(remembered) + sum(map(sys.getsizeof, parts))
    assert store.memory == 2000 * TOMBSTONE_BYTES
    assert 0.8 * store.memory < size < 1.1 * store.memory
