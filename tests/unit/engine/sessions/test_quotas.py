"""How many sessions a caller may have, in each store, and among several servers that share one."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextvars import copy_context
from datetime import datetime
from pathlib import Path

import pytest

from charloom.engine.errors import EngineError, Overloaded, SessionExists
from charloom.engine.quotas import KEPT_RETRY_SECONDS, Kept, Quota, QuotaExceeded
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.open_store import look_at_store
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Store
from charloom.engine.shares import Share, name_of_tenant, set_share
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import InFile, InRedis, Place, grown, made

FOLDER = Path(__file__).resolve().parents[3] / "fixtures" / "written-by-0.1"
WRITTEN = FOLDER / "sessions.sqlite"
EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))
SHOP = Share(name_of_tenant("shop"), quota=Quota(sessions=10))
BANK = Share(name_of_tenant("bank"))


async def add(store: Store, share: Share, *sessions: Session) -> None:
    """Add sessions as a caller."""
    context = copy_context()
    context.run(set_share, share)
    await context.run(asyncio.ensure_future, store.add(sessions))


async def outcomes(store: Sequence[Store], share: Share, sessions: Sequence[Session]) -> list[str]:
    """What came of making many sessions at once, each by the next store."""
    calls = (add(store[n % len(store)], share, session) for n, session in enumerate(sessions))
    return [
        one.reason if isinstance(one, EngineError) else "" if one is None else repr(one)
        for one in await asyncio.gather(*calls, return_exceptions=True)
    ]


async def test_a_quota_of_ten_is_ten_however_many_are_made_at_once_and_by_which_server(place: Place) -> None:
    stores = [place.open(), place.open()] if place.open().shared else [place.open()]
    came = await outcomes(stores, SHOP, [made(place, f"s{number}", "shop") for number in range(50)])
    assert sorted(came) == [""] * 10 + ["QUOTA_EXCEEDED"] * 40
    kept = await stores[0].kept(SHOP)
    assert kept.sessions == 10
    with pytest.raises(QuotaExceeded) as refused:
        await add(stores[-1], SHOP, made(place, "more", "shop"), made(place, "and more", "shop"))
    assert refused.value.facts == {"limit": "sessions", "most": "10", "used": "10", "asked": "2"}
    assert refused.value.retry_after == KEPT_RETRY_SECONDS
    await add(stores[0], BANK, made(place, "more", "bank"))


async def test_what_was_deleted_expired_or_used_up_gives_its_place_back_once(place: Place) -> None:
    store = place.open()
    await add(store, SHOP, *(made(place, f"long {number}", "shop") for number in range(8)))
    await add(store, SHOP, *(made(place, f"short {number}", "shop", ticks=2) for number in range(2)))
    await place.wait(3)
    await add(store, SHOP, made(place, "short 0", "shop", ticks=2))  # one that has expired, made again
    assert (await store.kept(SHOP)).sessions <= 10
    await add(store, SHOP, made(place, "in place of another", "shop"))
    with pytest.raises(QuotaExceeded):
        await add(store, SHOP, made(place, "too many", "shop"))
    await store.delete(Key("shop", "long 1"))
    await add(store, SHOP, made(place, "too many", "shop"))
    lease = await store.acquire(Key("shop", "long 2"))
    await store.write(lease, grown(lease.session, place.now()))
    await store.release(lease, grown(lease.session, place.now()))
    with pytest.raises(QuotaExceeded):
        await add(store, SHOP, made(place, "again too many", "shop"))
    await place.wait(70)
    await store.sweep()
    assert await store.kept(SHOP) == Kept(0, 0)


async def test_several_are_made_or_none(place: Place) -> None:
    store = place.open()
    await add(store, SHOP, made(place, "a", "shop"))
    with pytest.raises(QuotaExceeded):
        await add(store, SHOP, *(made(place, f"s{number}", "shop") for number in range(10)))
    with pytest.raises(SessionExists):
        await add(store, SHOP, made(place, "b", "shop"), made(place, "a", "shop"))
    assert (await store.kept(SHOP)).sessions == 1


async def test_bytes_are_counted_as_sessions_grow_and_go(place: Place) -> None:
    store, one = place.open(), made(place, "a", "shop")
    share = Share(SHOP.name, quota=Quota(session_bytes=3 * one.memory))
    await add(store, share, one, made(place, "b", "shop"))
    assert await store.kept(share) == Kept(2, 2 * one.memory)
    lease = await store.acquire(one.key)
    larger = grown(one, place.now(), size=5000)
    await store.write(lease, larger)
    assert await store.kept(share) == Kept(2, one.memory + larger.memory)
    with pytest.raises(QuotaExceeded) as refused:
        await add(store, share, made(place, "c", "shop"))
    facts = refused.value.facts
    assert (facts["limit"], facts["used"], facts["asked"]) == (
        *("session_bytes", str(one.memory + larger.memory)),
        str(one.memory),
    )
    # What it has already is its own: it goes on with it, although it is over its limit.
    await store.release(lease, grown(larger, place.now(), size=6000))
    await store.delete(one.key)
    assert await store.kept(share) == Kept(1, one.memory)
    await add(store, share, made(place, "c", "shop"), made(place, "d", "shop"))


async def test_a_limit_that_was_lowered_leaves_what_is_there(place: Place) -> None:
    store = place.open()
    await add(store, SHOP, *(made(place, f"s{number}", "shop") for number in range(10)))
    lowered = Share(SHOP.name, quota=Quota(sessions=3))
    for number in range(7):
        with pytest.raises(QuotaExceeded):
            await add(store, lowered, made(place, "more", "shop"))
        await store.release(await store.acquire(Key("shop", "s9")), made(place, "s9", "shop"))
        await store.delete(Key("shop", f"s{number}"))
    with pytest.raises(QuotaExceeded):
        await add(store, lowered, made(place, "more", "shop"))
    await store.delete(Key("shop", "s7"))
    await add(store, lowered, made(place, "more", "shop"))


async def test_whoever_fills_a_store_locks_nobody_out(place: Place) -> None:
    store = place.open(capacity=40)
    for number in range(40):
        await add(store, SHOP._replace(quota=Quota()), made(place, f"s{number}", "shop", ticks=10_000))
    for _ in range(3):
        with pytest.raises(Overloaded) as refused:
            await add(store, SHOP._replace(quota=Quota()), made(place, "more", "shop"))
        assert refused.value.retry_after
    for number in range(20):
        await add(store, BANK, made(place, f"s{number}", "bank"))
    with pytest.raises(Overloaded):
        await add(store, BANK, made(place, "more", "bank"))
    await add(store, Share("third"), made(place, "one", "third"))


async def test_what_a_refusal_has_swept_is_not_swept_for_the_next(place: Place) -> None:
    store = place.open()
    await add(store, SHOP, *(made(place, f"s{number}", "shop") for number in range(10)))
    await add(store, BANK, *(made(place, f"s{number}", "bank", ticks=2) for number in range(20)))
    await place.wait(3)
    with pytest.raises(QuotaExceeded):
        await add(store, SHOP, made(place, "more", "shop"))
    assert await store.count() == 10


async def test_callers_without_a_tenant_are_counted_too(place: Place) -> None:
    store, one = place.open(), Share("10.0.0.1", quota=Quota(sessions=1))
    await add(store, one, made(place, "a"))
    with pytest.raises(QuotaExceeded):
        await add(store, one, made(place, "b"))
    await add(store, Share("10.0.0.2", quota=Quota(sessions=1)), made(place, "b"))
    await store.delete(Key("", "a"))
    await add(store, one, made(place, "c"))


# Written before there were counts, or beside servers that do not count.


async def test_a_file_of_an_earlier_version_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    shutil.copy(WRITTEN, tmp_path)
    store = SqliteStore(tmp_path / WRITTEN.name, 100, lambda: datetime.fromisoformat(EXPECTED["written"]))
    kept = await store.kept(Share())
    assert kept.sessions == len(await store.page("", "", 100)) == 2
    assert kept.bytes > 1000
    two = Share(quota=Quota(sessions=2))
    with pytest.raises(QuotaExceeded):
        await add(store, two, made(Place(), "more"))
    await store.delete(Key("", "copy"))
    await add(store, two, made(Place(), "more"))
    await store.close()


async def test_what_a_server_adds_and_deletes_that_does_not_count_is_counted_in_the_file(tmp_path: Path) -> None:
    place = InFile(tmp_path / "sessions.db")
    store = place.make(100)
    await add(store, SHOP, made(place, "a", "shop"), made(place, "b", "shop"))
    with sqlite3.connect(place.path, isolation_level=None) as raw:  # as version 0.1 does
        raw.execute("DELETE FROM sessions WHERE id = 'a'")
        raw.execute("INSERT INTO sessions VALUES (NULL, 'shop', 'old', 9000000000000000, 0, 0, 0, '')")
        raw.execute("INSERT INTO sessions VALUES (NULL, '', 'old', 9000000000000000, 0, 0, 0, '')")
        raw.execute("DELETE FROM sessions WHERE id = 'b'")
    raw.close()
    assert (await store.kept(SHOP)).sessions == 1
    assert (await store.kept(Share())).sessions == 1
    await store.close()


async def test_what_redis_has_from_servers_that_do_not_count_is_counted(doomed_redis: RedisServer) -> None:
    place = InRedis(doomed_redis.url)
    store = place.make(1000)
    await add(store, SHOP._replace(quota=Quota()), *(made(place, f"s{number:04}", "shop") for number in range(700)))
    await add(store, Share("10.0.0.1"), made(place, "a"))
    for key in ("holdings", "owned", "owned-bytes"):
        doomed_redis.ask("DEL", f"{{charloom}}:{key}")
    assert (await store.kept(SHOP)).sessions == 0
    again = place.make(1000)
    await again.start()
    kept = await again.kept(SHOP)
    assert kept.sessions == 700
    assert kept.bytes > 700
    with pytest.raises(QuotaExceeded):
        await add(again, SHOP, made(place, "more", "shop"))
    # One that such a server has swept, and one that it has added.
    for command in ("session:4:shop:s0001", "mark:4:shop:s0001"):
        doomed_redis.ask("DEL", f"{{charloom}}:{command}")
    doomed_redis.ask("ZREM", "{charloom}:index", "4:shop:s0001", "4:shop:s0002")
    await again.sweep()
    assert (await again.kept(SHOP)).sessions == 698
    await store.close()
    await again.close()


async def test_looking_whether_redis_can_be_used_counts_nothing(redis_server: RedisServer) -> None:
    redis_server.ask("FLUSHALL")
    place = InRedis(redis_server.url)
    await place.open().add([made(place, "a", "shop")])
    for key in ("holdings", "owned", "owned-bytes"):
        redis_server.ask("DEL", f"{{charloom}}:{key}")
    before = redis_server.ask("KEYS", "*")
    assert await look_at_store(redis_server.url) == "Redis, which answers"
    assert sorted(redis_server.ask("KEYS", "*").split()) == sorted(before.split())
    await place.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_refusal_looks_at_no_session(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """However many there are: what the store does for it is counted, because a busy machine tells no time."""
    costs = []
    for count in (20, 400):
        if kind == "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            server.ask("FLUSHALL")
            redis = InRedis(server.url).make(count)
            await fill(redis, InRedis(server.url), count)
            server.ask("CONFIG", "RESETSTAT")
            await refused_ten_times(redis, InRedis(server.url))
            stats = server.ask("INFO", "commandstats")
            calls = [line for line in stats.splitlines() if line.startswith("cmdstat_")]
            costs.append(sum(int(line.split("calls=")[1].split(",")[0]) for line in calls if "info" not in line))
            await redis.close()
        else:
            place = InFile(tmp_path / f"{count}.db")
            store = place.make(count)
            await fill(store, place, count)
            steps = 0

            def step() -> None:
                nonlocal steps
                steps += 1

            await store._transactions.do(
                lambda store=store: store._transactions.connection.set_progress_handler(step, 1)
            )  # type: ignore[misc]
            await refused_ten_times(store, place)
            costs.append(steps)
            await store.close()
    assert costs[1] < 1.2 * costs[0], costs


async def fill(store: RedisStore | SqliteStore, place: Place, count: int) -> None:
    sessions = [made(place, f"s{number:05}", "shop", ticks=10_000) for number in range(count)]
    await add(store, SHOP._replace(quota=Quota()), *sessions)


async def refused_ten_times(store: Store, place: Place) -> None:
    for number in range(10):
        with pytest.raises(Overloaded):
            await add(store, SHOP._replace(quota=Quota()), made(place, f"more {number}", "shop"))
