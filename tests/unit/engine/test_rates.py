"""How many tokens a second callers may have."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import charloom.engine.rates
from charloom.engine.errors import StoreUnavailable
from charloom.engine.quotas import Quota, QuotaExceeded
from charloom.engine.rates import BURST_SECONDS, LEDGER_SECONDS, MOST_BUCKETS, Ledger, Rates
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.shares import Share, set_share
from tests.unit.engine.redis_server import RedisServer
from tests.waiting import eventually_async

RATE = 100.0
BURST = int(RATE * BURST_SECONDS)
SHOP = Share("tenant shop", quota=Quota(tokens_per_second=RATE))


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def admit(rates: Rates, share: Share) -> None:
    context = copy_context()
    context.run(set_share, share)
    await context.run(asyncio.ensure_future, rates.admit())


async def test_who_has_no_limit_is_never_slowed() -> None:
    rates = Rates()
    assert rates.spend(Share("anybody"), 10**9) == 0
    await admit(rates, Share("anybody"))
    assert await rates.level(Share("anybody")) is None


async def test_what_was_saved_up_is_used_at_once_and_then_as_much_as_comes_back() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    assert rates.spend(SHOP, BURST) == 0
    assert rates.spend(SHOP, 50) == pytest.approx(0.5)
    clock.time += 0.25
    assert rates.spend(SHOP, 0) == pytest.approx(0.25)
    clock.time += 1000
    assert await rates.level(SHOP) == BURST


async def test_a_call_is_refused_while_too_much_is_owed_and_told_when_to_come_back() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.spend(SHOP, BURST + 99)
    await admit(rates, SHOP)  # a stream that is slowed down owes some all the time
    rates.spend(SHOP, 201)
    with pytest.raises(QuotaExceeded) as refused:
        await admit(rates, SHOP)
    assert refused.value.facts == {"limit": "tokens_per_second", "most": "100", "owed": "300"}
    assert refused.value.retry_after == 3
    await admit(rates, Share("tenant other", quota=SHOP.quota))
    clock.time += 3
    await admit(rates, SHOP)


async def test_a_limit_that_was_lowered_holds_from_then_on() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    lowered = SHOP._replace(quota=Quota(tokens_per_second=1))
    rates.spend(SHOP, 0)
    assert await rates.level(lowered) == BURST_SECONDS
    assert rates.spend(lowered, 20) == pytest.approx(10)


async def test_callers_that_owe_nothing_are_forgotten() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    rates.spend(SHOP, BURST)
    for number in range(3 * MOST_BUCKETS):
        rates.spend(Share(f"10.0.{number}", quota=SHOP.quota), 1)
        clock.time += 1e-4
    assert len(rates._buckets) < 2 * MOST_BUCKETS
    level = await rates.level(SHOP)
    assert level is not None
    assert level < BURST, "it has used something, and is not forgotten"


class Slow(Ledger):
    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        await asyncio.Event().wait()
        return burst


class Broken(Ledger):
    def __init__(self) -> None:
        self.works, self.asked, self.spent = False, 0, 0.0

    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        self.asked += 1
        if not self.works:
            raise StoreUnavailable("it is away")
        self.spent += tokens
        return burst - self.spent


async def test_while_the_ledger_is_away_each_server_counts_alone_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "charloom")
    ledger = Broken()
    rates = Rates(ledger, Clock())
    await admit(rates, SHOP)
    rates.spend(SHOP, BURST + 300)
    with pytest.raises(QuotaExceeded):
        await admit(rates, SHOP)
    asked = ledger.asked
    await eventually_async(lambda: ledger.asked > asked)
    ledger.works = True
    rates.spend(SHOP, 1)
    await eventually_async(lambda: ledger.spent > 0)
    assert ledger.spent == BURST + 1, "what was used meanwhile, but no more than a full bucket"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("charloom")]
    assert len(said) == 2, said
    assert "not counted together" in said[0]
    assert "it is away" in said[0]
    rates.close()


async def test_what_was_used_is_told_later_where_the_ledger_fails_unexpectedly() -> None:
    class Failing(Broken):
        async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
            self.asked += 1
            if not self.works:
                raise ZeroDivisionError
            self.spent += tokens
            return burst - self.spent

    ledger = Failing()
    rates = Rates(ledger, Clock())
    rates.spend(SHOP, 30)
    await eventually_async(lambda: ledger.asked > 0)
    ledger.works = True
    rates.spend(SHOP, 1)
    await eventually_async(lambda: ledger.spent > 0)
    assert ledger.spent == 31
    rates.close()


async def test_a_bucket_that_is_forgotten_while_the_ledger_is_asked_refuses_nobody() -> None:
    class Forgetting(Ledger):
        async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
            del rates._buckets[name]  # as where ten thousand others call meanwhile
            return burst

    rates = Rates(Forgetting())
    await admit(rates, SHOP)
    assert rates._buckets == {}


async def test_a_ledger_that_does_not_answer_keeps_nobody_waiting() -> None:
    rates = Rates(Slow(), Clock())
    await asyncio.wait_for(admit(rates, SHOP), LEDGER_SECONDS + 60)
    rates.spend(SHOP, BURST + 300)
    with pytest.raises(QuotaExceeded):
        await asyncio.wait_for(admit(rates, SHOP), LEDGER_SECONDS + 60)
    rates.close()


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_two_servers_that_share_a_store_count_together(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charloom.engine.rates, "LEDGER_SECONDS", 60.0)  # else each may count alone on a busy machine
    stores: list[RedisStore] | list[SqliteStore]
    if kind == "redis":
        redis_server: RedisServer = request.getfixturevalue("redis_server")
        redis_server.ask("FLUSHALL")
        stores = [RedisStore(redis_server.url, 10) for _ in range(2)]
    else:
        stores = [SqliteStore(tmp_path / "sessions.db", 10) for _ in range(2)]
    one, other = (Rates(store) for store in stores)
    one.spend(SHOP, BURST)

    async def refused() -> None:
        while True:
            other.spend(SHOP, 50)
            await admit(other, SHOP)
            await asyncio.sleep(0.05)

    with pytest.raises(QuotaExceeded):
        await asyncio.wait_for(refused(), 120)
    # Together they get what one may have: so much as comes back.
    began, taken = asyncio.get_running_loop().time(), 0

    async def stream(rates: Rates) -> None:
        nonlocal taken
        while asyncio.get_running_loop().time() - began < 3:
            taken += 20
            await asyncio.sleep(max(0.01, rates.spend(SHOP, 20)))

    await asyncio.gather(stream(one), stream(other))
    seconds = asyncio.get_running_loop().time() - began
    assert taken <= RATE * (seconds + 1), "what both were given between two looks, they owe"
    one.close()
    other.close()
    for store in stores:
        await store.close()


async def test_a_bucket_in_redis_ends_when_it_is_full_again(redis_server: RedisServer) -> None:
    redis_server.ask("FLUSHALL")
    store = RedisStore(redis_server.url, 10)
    assert await store.spend("tenant shop", 0, 1, 1000) == 1000
    assert "bucket" not in redis_server.ask("KEYS", "*")
    lefts = await asyncio.gather(*(store.spend("tenant shop", 20, 1, 1000) for _ in range(100)))
    assert -1000 <= min(lefts) < -900
    left = int(redis_server.ask("PTTL", "{charloom}:bucket:tenant shop").strip()[1:])
    assert 1_900_000 < left <= 2_001_000
    await store.close()


async def test_a_bucket_in_sqlite_is_forgotten_when_it_is_full_again(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    store = SqliteStore(tmp_path / "sessions.db", 10, now=lambda: now)
    assert await store.spend("tenant shop", 0, 100, 1000) == 1000
    assert await store.spend("tenant shop", 2000, 100, 1000) == -1000
    now += timedelta(seconds=4)
    assert await store.spend("tenant shop", 0, 100, 1000) == pytest.approx(-600)
    await store.sweep()
    assert await store.spend("tenant shop", 0, 100, 1000) == pytest.approx(-600)
    now += timedelta(seconds=16)
    await store.sweep()
    with sqlite3.connect(tmp_path / "sessions.db") as file:
        assert file.execute("SELECT count(*) FROM buckets").fetchone() == (0,)
    file.close()
    assert await store.spend("tenant shop", 0, 100, 1000) == 1000
    await store.close()


async def test_redis_that_is_killed_takes_no_limit_away(doomed_redis: RedisServer, tmp_path: Path) -> None:
    store, clock = RedisStore(doomed_redis.url, 10), Clock()
    rates = Rates(store, clock)
    await admit(rates, SHOP)
    doomed_redis.kill()
    rates.spend(SHOP, BURST + 1000)
    for _ in range(3):
        clock.time += 1
        with pytest.raises(QuotaExceeded):
            await admit(rates, SHOP)
    rates.close()
    await store.close()
