from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from charloom.engine.decoder import Shape
from charloom.engine.errors import (
    Overloaded,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from charloom.engine.session import Session, Snapshot
from charloom.engine.stores.memory import MemoryStore

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(capacity=3, now=clock)


def session(session_id: str, at: datetime = START, seconds: float = 60) -> Session:
    snapshot = Snapshot.fresh(Shape(1, 2, 3), 0, seed=1)
    ttl = timedelta(seconds=seconds)
    return Session(session_id, "model", "digest", snapshot, 0, at, at, ttl, at + ttl)


def test_a_session_is_found_under_its_id(store: MemoryStore) -> None:
    store.add(session("a"))
    assert store.get("a").id == "a"
    with pytest.raises(SessionExists):
        store.add(session("a"))


def test_unknown_expired_and_deleted_are_told_apart(store: MemoryStore, clock: Clock) -> None:
    store.add(session("short", seconds=1))
    store.add(session("gone"))
    store.delete("gone")
    clock.advance(1)
    with pytest.raises(SessionExpired) as expired:
        store.get("short")
    assert expired.value.at == START + timedelta(seconds=1)
    with pytest.raises(SessionDeleted):
        store.get("gone")
    with pytest.raises(SessionNotFound) as unknown:
        store.get("never")
    assert type(unknown.value) is SessionNotFound


def test_asking_again_and_again_for_a_deleted_session_keeps_nothing(store: MemoryStore) -> None:
    store.add(session("a"))
    store.delete("a")
    raised = []
    for _ in range(3):
        with pytest.raises(SessionDeleted) as refused:
            store.get("a")
        raised.append(refused.value)
    assert len(set(map(id, raised))) == 3, "one exception for all would collect the frames of every call"


def test_an_expired_id_can_be_used_again(store: MemoryStore, clock: Clock) -> None:
    store.add(session("a", seconds=1))
    clock.advance(2)
    store.add(session("a", at=clock.now))
    assert store.get("a").created == clock.now


def test_use_renews_the_expiry_and_looking_does_not(store: MemoryStore, clock: Clock) -> None:
    store.add(session("a"))
    clock.advance(50)
    store.acquire("a")
    store.release("a", None)
    clock.advance(50)
    assert store.get("a").expires == START + timedelta(seconds=110)
    clock.advance(10)
    with pytest.raises(SessionExpired):
        store.get("a")


def test_a_session_in_use_does_not_expire_and_has_one_user(store: MemoryStore, clock: Clock) -> None:
    store.add(session("a"))
    store.acquire("a")
    clock.advance(1000)
    assert store.sweep() == 0
    with pytest.raises(SessionBusy):
        store.acquire("a")
    with pytest.raises(SessionBusy):
        store.delete("a")
    assert store.busy == 1
    store.release("a", None)
    assert store.busy == 0


def test_a_change_makes_the_next_version(store: MemoryStore, clock: Clock) -> None:
    store.add(session("a"))
    before = store.acquire("a")
    clock.advance(5)
    changed = Snapshot(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 2, 10, 1)
    after = store.release("a", changed)
    assert (after.version, after.snapshot.position, after.updated) == (1, 10, clock.now)
    assert before.snapshot.position == 0
    assert store.get("a") is after


def test_a_full_store_refuses_until_something_expires(store: MemoryStore, clock: Clock) -> None:
    for name in "abc":
        store.add(session(name, seconds=10))
    with pytest.raises(Overloaded) as refused:
        store.add(session("d"))
    assert refused.value.retry_after > 0
    clock.advance(10)
    store.add(session("d", at=clock.now))
    assert len(store) == 1


def test_pages_follow_the_order_of_the_ids(store: MemoryStore, clock: Clock) -> None:
    for name in ("b", "c", "a"):
        store.add(session(name, seconds=10 if name == "b" else 60))
    assert [s.id for s in store.page("", 2)] == ["a", "b"]
    assert [s.id for s in store.page("b", 2)] == ["c"]
    clock.advance(10)
    assert [s.id for s in store.page("", 5)] == ["a", "c"]
