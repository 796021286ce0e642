"""All sessions of a tenant are forgotten, in each store, and nothing brings them back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    SessionBusy,
    SessionDeleted,
    SessionNotFound,
    SessionTakenOver,
    StoreFull,
    StoreUnavailable,
)
from charloom.engine.quotas import Kept
from charloom.engine.sessions.records import PLAIN, Records, Unreadable
from charloom.engine.sessions.sealing import new_keys
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.memory import TOMBSTONE_BYTES, MemoryStore
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Store
from charloom.engine.shares import Share, name_of_tenant, set_share
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import LEASE, InFile, InRedis, Place, grown, ids, made


async def erase_all(store: Store, tenant: str, at_a_time: int = 7) -> list[str]:
    erased = list[str]()
    while batch := await store.erase(tenant, at_a_time):
        erased += [one.id for one in batch]
    return erased


async def test_all_of_a_tenant_is_forgotten_in_the_order_of_the_ids_and_nothing_of_others(place: Place) -> None:
    store = place.open()
    names = [f"{name}{number}" for name in "bA_" for number in range(20)]
    for tenant in ("", "shop", "sho", "shop.2"):
        await store.add([made(place, name, tenant) for name in names])
    assert [one.id for one in await store.erase("shop", 10)] == sorted(names)[:10]
    assert await ids(store, "shop") == sorted(names)[10:]
    assert await erase_all(store, "shop") == sorted(names)[10:]
    assert await store.erase("shop", 10) == []
    assert await ids(store, "shop") == []
    for tenant in ("", "sho", "shop.2"):
        assert await ids(store, tenant) == sorted(names)
    with pytest.raises(SessionDeleted):
        await store.get(Key("shop", "b1"))
    await store.add([made(place, "b1", "shop")])
    assert await ids(store, "shop") == ["b1"]


async def test_what_is_erased_is_what_the_tenant_had_kept_and_makes_room(place: Place) -> None:
    store, share = place.open(capacity=3), Share(name_of_tenant("shop"))
    set_share(share)
    await store.add([made(place, name, "shop") for name in "abc"])
    lease = await store.acquire(Key("shop", "b"))
    await store.write(lease, grown(lease.session, place.now(), size=8))
    kept = await store.kept(share)
    erased = await store.erase("shop", 10)
    assert Kept(len(erased), sum(one.bytes for one in erased)) == kept
    assert await store.kept(share) == Kept(0, 0)
    assert store.memory == (3 * TOMBSTONE_BYTES if isinstance(store, MemoryStore) else 0)
    await store.add([made(place, name, "shop") for name in "def"])


async def test_a_call_that_uses_an_erased_session_cannot_write_it_again(place: Place) -> None:
    store, key = place.open(), Key("shop", "a")
    await store.add([made(place, "a", "shop"), made(place, "b", "shop")])
    lease = await store.acquire(key, "call")
    assert [one.id for one in await store.erase("shop", 10)] == ["a", "b"]
    assert await store.renew([lease]) == [lease]
    for method in (store.write, store.release):
        with pytest.raises(SessionTakenOver):
            await method(lease, grown(lease.session, place.now()))
    with pytest.raises(SessionDeleted):
        await store.acquire(key, "call")
    await store.add([made(place, "a", "shop")])
    new = await store.acquire(key, "call")
    assert not new.same_call
    assert new.fence > lease.fence
    for method in (store.write, store.release):
        with pytest.raises(SessionTakenOver):
            await method(lease, grown(lease.session, place.now()))
    with pytest.raises(SessionBusy):
        await store.delete(key)
    await store.release(new, grown(new.session, place.now()))
    assert await ids(store, "shop") == ["a"]


async def test_a_holder_that_was_cut_off_cannot_bring_back_what_expired_before_the_erasure(shared_place: Place) -> None:
    store = shared_place.open()
    await store.add([made(shared_place, "a", "shop", ticks=2), made(shared_place, "a", "bank", ticks=2)])
    lease, other = await store.acquire(Key("shop", "a"), "call"), await store.acquire(Key("bank", "a"), "call")
    await shared_place.wait(LEASE + 1)
    await store.sweep()
    assert await store.erase("shop", 10) == []
    assert await store.renew([lease, other]) == [lease]
    with pytest.raises(SessionTakenOver):
        await store.write(lease, grown(lease.session, shared_place.now()))
    await store.release(other, grown(other.session, shared_place.now()))
    assert (await ids(store, "shop"), await ids(store, "bank")) == ([], ["a"])


async def test_what_redis_lost_before_the_erasure_cannot_be_brought_back(redis_server: RedisServer) -> None:
    redis_server.ask("FLUSHALL")
    place = InRedis(redis_server.url)
    store = place.open()
    await store.add([made(place, "a", "shop"), made(place, "b", "shop")])
    lost, kept = await store.acquire(Key("shop", "a")), await store.acquire(Key("shop", "b"))
    redis_server.ask("FLUSHALL")
    await store.write(kept, grown(kept.session, place.now()))
    assert [one.id for one in await store.erase("shop", 10)] == ["b"]
    for lease in (lost, kept):
        with pytest.raises(SessionTakenOver):
            await store.release(lease, grown(lease.session, place.now()))
    await store.add([made(place, "a", "shop")])
    await store.release(await store.acquire(Key("shop", "a")), made(place, "a", "shop"))
    await place.close()


async def test_a_tenant_is_erased_where_redis_has_no_memory_left(
    doomed_redis: RedisServer, redis_place: InRedis
) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, name, "shop", ticks=600) for name in "abc"])
    lease = await store.acquire(Key("shop", "b"))
    doomed_redis.told("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(StoreFull):
        await store.add([made(redis_place, "d", "shop")])
    assert await erase_all(store, "shop", 3) == ["a", "b", "c"]
    doomed_redis.told("CONFIG", "SET", "maxmemory", "0")
    with pytest.raises(SessionTakenOver):
        await store.release(lease, grown(lease.session, redis_place.now()))
    assert await ids(store, "shop") == []


def stores_with(records: Records, place: Place) -> Store:
    if isinstance(place, InRedis):
        return RedisStore(place.url, 1000, place.now, LEASE * place.tick, records)
    assert isinstance(place, InFile)
    return SqliteStore(place.path, 1000, place.now, LEASE, place.clock.steady, records)


async def test_records_that_cannot_be_read_are_named_and_erased(shared_place: Place) -> None:
    with_lost_key = stores_with(Records(new_keys()), shared_place)
    await with_lost_key.add([made(shared_place, name, "shop") for name in "bd"])
    await with_lost_key.close()
    store = shared_place.open()
    await store.add([made(shared_place, name, "shop") for name in "ace"])
    found = await store.page("shop", "", 10)
    assert [one.id for one in found] == ["a", "b", "c", "d", "e"]
    problems = [one.problem for one in found if isinstance(one, Unreadable)]
    assert len(problems) == 2
    assert "record of session 'b'" in problems[0]
    assert "key that this server lacks" in problems[0]
    for attempt in (store.get(Key("shop", "b")), store.acquire(Key("shop", "d")), store.delete(Key("shop", "d"))):
        with pytest.raises(StoreUnavailable, match="key that this server lacks"):
            await attempt
    assert await erase_all(store, "shop", 2) == ["a", "b", "c", "d", "e"]
    for name in "abcde":
        with pytest.raises(SessionNotFound):
            await store.get(Key("shop", name))


async def test_nothing_of_an_erased_record_is_left_in_a_file(sqlite_place: InFile) -> None:
    store = stores_with(PLAIN, sqlite_place)
    numbers = {"shop": 0.1234, "bank": 0.5678}
    for tenant, number in numbers.items():
        snapshot = Snapshot(np.full((2, 2, 1000), number, np.float32), (0,), 0, 1, b"")
        await store.add([replace(made(sqlite_place, f"s{n}", tenant), snapshot=snapshot) for n in range(20)])

    def found(tenant: str) -> bool:
        files = sqlite_place.path.parent.glob(f"{sqlite_place.path.name}*")
        return any(np.full(20, numbers[tenant], np.float32).tobytes() in path.read_bytes() for path in files)

    assert found("shop")
    await erase_all(store, "shop")
    assert not found("shop")
    assert found("bank")
    await store.close()
