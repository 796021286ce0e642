"""What all stores do, and what those do that several servers share."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace

import pytest

from charloom.engine.errors import (
    Overloaded,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    SessionTakenOver,
    StoreUnavailable,
)
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Call, Key
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import InFile, InRedis, Place, grown, ids, made, same

# Found.


async def test_a_session_is_found_as_it_was_written(place: Place) -> None:
    store, session = place.open(), made(place, "a")
    await store.add([session])
    assert same(await store.get(session.key), session)
    lease = await store.acquire(session.key, "call")
    assert same(lease.session, session)
    first = grown(session, place.now(), Call("call", 0, 1))
    await store.write(lease, first)
    assert same(await store.get(session.key), first)
    second = grown(first, place.now())
    await store.release(lease, second)
    assert same(await store.get(session.key), second)


async def test_an_id_is_used_once(place: Place) -> None:
    store = place.open()
    await store.add([made(place, "a")])
    with pytest.raises(SessionExists, match="'a'"):
        await store.add([made(place, "b"), made(place, "a")])
    assert await ids(store) == ["a"]


async def test_one_id_is_not_added_twice_at_once(shared_place: Place) -> None:
    store = shared_place.open()
    with pytest.raises(SessionExists):
        await store.add([made(shared_place, "a"), made(shared_place, "a")])
    assert await ids(store) == []


async def test_adding_nothing_is_nothing(place: Place) -> None:
    store = place.open(0)
    await store.add([])
    assert await ids(store) == []


async def test_a_full_store_refuses_until_something_expires(place: Place) -> None:
    store = place.open(capacity=3)
    await store.add([made(place, "a", ticks=4), made(place, "b", ticks=4)])
    with pytest.raises(Overloaded) as refused:
        await store.add([made(place, "c"), made(place, "d")])
    assert refused.value.retry_after > 0
    assert await ids(store) == ["a", "b"]
    await place.wait(5)
    await store.add([made(place, name) for name in "ace"])
    assert await ids(store) == ["a", "c", "e"]
    with pytest.raises(Overloaded):
        await store.add([made(place, "f")])
    await store.delete(Key("", "c"))
    await store.add([made(place, "f")])


async def test_pages_follow_the_order_of_the_ids(place: Place) -> None:
    store = place.open()
    names = [f"{name}{number}" for name in "zaQ_.-9é" for number in range(25)]
    random.Random(1).shuffle(names)
    for start in range(0, len(names), 40):
        await store.add([made(place, name) for name in names[start : start + 40]])
    assert await ids(store) == sorted(names)
    found, after = list[str](), ""
    while page := await store.page("", after, 7):
        found += [session.id for session in page]
        after = found[-1]
    assert found == sorted(names)
    assert [session.id for session in await store.page("", "a1", 2)] == ["a10", "a11"]
    assert await store.page("", "éz", 5) == []
    assert await store.page("", "", 0) == []


async def test_pages_show_no_session_that_expired(place: Place) -> None:
    store = place.open()
    await store.add([made(place, name, ticks=2 if name in "bd" else 60) for name in "abcde"])
    await store.acquire(Key("", "d"))
    await place.wait(3)
    assert [session.id for session in await store.page("", "", 3)] == ["a", "c", "d"]


async def test_tenants_have_nothing_to_do_with_each_other(place: Place) -> None:
    store = place.open()
    tenants = ["", "a", "ab", "1:a", "é", "a:", "0:", "日本"]
    for number, tenant in enumerate(tenants):
        await store.add([replace(made(place, name, tenant), version=number) for name in ("x", "b:x", "y")])
    for number, tenant in enumerate(tenants):
        assert await ids(store, tenant) == ["b:x", "x", "y"]
        assert (await store.get(Key(tenant, "x"))).version == number
    await store.acquire(Key("a", "x"))
    await store.acquire(Key("ab", "x"))
    await store.delete(Key("", "x"))
    assert [len(await ids(store, tenant)) for tenant in tenants] == [2, *[3] * 7]


# Gone.


async def test_unknown_expired_and_deleted_are_told_apart(place: Place) -> None:
    store, short = place.open(), made(place, "short", ticks=2)
    await store.add([short, made(place, "gone"), made(place, "kept")])
    before = place.now()
    deleted = await store.delete(Key("", "gone"))
    assert deleted.id == "gone"
    after = place.now()
    await place.wait(3)
    for _ in range(2):
        for method in (store.get, store.acquire, store.delete):
            with pytest.raises(SessionExpired) as expired:
                await method(Key("", "short"))
            assert expired.value.at == short.expires
            with pytest.raises(SessionDeleted) as gone:
                await method(Key("", "gone"))
            assert before <= gone.value.at <= after
            with pytest.raises(SessionNotFound) as unknown:
                await method(Key("", "never"))
            assert type(unknown.value) is SessionNotFound
            with pytest.raises(SessionNotFound) as others:
                await method(Key("other", "gone"))
            assert type(others.value) is SessionNotFound
        await store.sweep()


async def test_asking_again_and_again_for_a_deleted_session_keeps_nothing(place: Place) -> None:
    store = place.open()
    await store.add([made(place, "a")])
    await store.delete(Key("", "a"))
    raised = []
    for _ in range(3):
        with pytest.raises(SessionDeleted) as refused:
            await store.get(Key("", "a"))
        raised.append(refused.value)
    assert len(set(map(id, raised))) == 3, "one exception for all would collect the frames of every call"


async def test_the_id_of_a_gone_session_can_be_used_again(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a", ticks=1)])
    await place.wait(2)
    again = made(place, "a")
    await store.add([again])
    assert same(await store.get(key), again)
    await store.delete(key)
    await store.add([made(place, "a", ticks=1)])
    await place.wait(2)
    with pytest.raises(SessionExpired):
        await store.get(key)


async def test_all_that_is_kept_is_counted(place: Place) -> None:
    store = place.open()
    assert await store.count() == 0
    await store.add([made(place, "a", "x"), made(place, "b", "x"), made(place, "a", "y"), made(place, "soon", ticks=1)])
    assert await store.count() == 4
    await store.delete(Key("x", "b"))
    assert await store.count() == 3
    await place.wait(3)
    await store.sweep()
    assert await store.count() == 2


async def test_sweeping_forgets_what_expired_and_only_that(place: Place) -> None:
    store = place.open()
    several = [made(place, f"s{number}", ticks=12 if number < 600 else 600) for number in range(610)]
    await store.add(several)
    await store.add([made(place, "in use", ticks=3)])
    lease = await store.acquire(Key("", "in use"))
    assert await store.sweep() == 0
    for _ in range(5):
        await place.wait(3)
        await store.renew([lease])
    assert await store.sweep() == 600
    assert await store.sweep() == 0
    assert len(await store.page("", "", 1000)) == 11
    await store.release(lease, lease.session)
    assert await store.sweep() == 1


async def test_what_was_long_gone_is_forgotten(place: Place) -> None:
    store = place.open()
    await store.add([made(place, "short", ticks=1), made(place, "gone"), made(place, "later", ticks=100)])
    await store.delete(Key("", "gone"))
    await place.wait(50)
    await store.sweep()
    await place.wait(TOMBSTONE_SECONDS / place.tick - 10)
    await store.sweep()
    for name, error in {"short": SessionNotFound, "gone": SessionNotFound, "later": SessionExpired}.items():
        with pytest.raises(SessionNotFound) as refused:
            await store.get(Key("", name))
        assert type(refused.value) is error


async def test_use_renews_the_expiry_and_looking_does_not(place: Place) -> None:
    store, key = place.open(), Key("", "a")
    await store.add([made(place, "a", ticks=6)])
    await place.wait(4)
    lease = await store.acquire(key)
    renewed = lease.session.renewed(place.now())
    await store.release(lease, renewed)
    await place.wait(4)
    assert (await store.get(key)).expires == renewed.expires
    await place.wait(3)
    with pytest.raises(SessionExpired) as expired:
        await store.get(key)
    assert expired.value.at == renewed.expires


# Several replicas, and later ones.


async def test_what_one_replica_writes_the_other_reads(shared_place: Place) -> None:
    one, two, key = shared_place.open(2), shared_place.open(2), Key("", "a")
    await one.add([made(shared_place, "a"), made(shared_place, "b")])
    with pytest.raises(Overloaded):
        await two.add([made(shared_place, "c")])
    lease = await one.acquire(key, "call")
    with pytest.raises(SessionBusy):
        await two.delete(key)
    await one.write(lease, grown(lease.session, shared_place.now()))
    assert (await two.get(key)).version == 1
    taken = await two.acquire(key, "call")
    with pytest.raises(SessionTakenOver):
        await one.release(lease, lease.session)
    await two.release(taken, taken.session)
    await one.delete(key)
    with pytest.raises(SessionDeleted):
        await two.get(key)
    assert await ids(two) == ["b"]


async def test_a_session_outlives_its_server(shared_place: Place) -> None:
    before = shared_place.open()
    await before.add([made(shared_place, "a"), made(shared_place, "b"), made(shared_place, "c")])
    lease = await before.acquire(Key("", "a"))
    kept = grown(lease.session, shared_place.now())
    await before.release(lease, kept)
    held = await before.acquire(Key("", "b"), "call")
    await before.delete(Key("", "c"))
    await before.close()
    after = shared_place.open()
    assert same(await after.get(Key("", "a")), kept)
    with pytest.raises(SessionBusy):
        await after.acquire(Key("", "b"))
    resumed = await after.acquire(Key("", "b"), "call")
    assert resumed.same_call
    assert resumed.fence > held.fence
    with pytest.raises(SessionDeleted):
        await after.get(Key("", "c"))


async def test_a_record_that_cannot_be_read_is_told_by_its_id(shared_place: Place, redis_server: RedisServer) -> None:
    store, key = shared_place.open(), Key("", "a")
    await store.add([made(shared_place, "a")])
    if isinstance(shared_place, InFile):
        with sqlite3.connect(shared_place.path) as raw:
            raw.execute("UPDATE records SET record = 'x'")
        raw.close()
    else:
        redis_server.ask("HSET", "{charloom}:session:0::a", "record", "x")
    for attempt in (store.get, store.acquire, store.delete):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="session 'a' cannot be read"):
                await attempt(key)
    (found,) = await store.page("", "", 10)
    assert isinstance(found, Unreadable)
    assert "session 'a' cannot be read" in found.problem
    if isinstance(shared_place, InRedis):
        assert redis_server.ask("EXISTS", "{charloom}:lease:0::a") == ":0\r\n", "it is not left acquired"
