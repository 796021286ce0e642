"""Work that waits at a time is in one transaction, and each piece of it succeeds or fails by itself."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from charloom.engine.errors import SessionBusy, StoreFull, StoreUnavailable
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.sqlite_transactions import MOST_AT_ONCE, READ, Transactions
from tests.unit.engine.stores import InFile, grown, made

NAMES = [f"{number:02}" for number in range(20)]


@pytest.fixture
async def store(sqlite_place: InFile) -> AsyncIterator[SqliteStore]:
    store = sqlite_place.open()
    assert isinstance(store, SqliteStore)
    await store.add([made(sqlite_place, name) for name in NAMES])
    yield store
    await store.close()


@asynccontextmanager
async def statements(transactions: Transactions) -> AsyncIterator[list[str]]:
    """What is executed while the context is open."""
    found = list[str]()
    await transactions.outside(lambda connection: connection.set_trace_callback(found.append))
    yield found
    await transactions.outside(lambda connection: connection.set_trace_callback(None))


async def held_up(transactions: Transactions) -> asyncio.Event:
    """Keep the thread busy until the event is set, so that what comes meanwhile waits together."""
    go, here = asyncio.Event(), asyncio.get_running_loop()
    begun = asyncio.Event()

    def wait() -> None:
        here.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), here).result()

    transactions.submit(wait, READ)
    await begun.wait()
    return go


async def test_what_waits_at_a_time_is_committed_at_once(store: SqliteStore, sqlite_place: InFile) -> None:
    async with statements(store._transactions) as executed:
        go = await held_up(store._transactions)
        taking = [asyncio.create_task(store.acquire(Key("", name))) for name in NAMES]
        await asyncio.sleep(0)
        go.set()
        leases = await asyncio.gather(*taking)
    assert executed.count("COMMIT") == 2, "that of what held them up, and theirs"
    assert [lease.session.id for lease in leases] == NAMES
    assert sorted({lease.fence for lease in leases}) == [lease.fence for lease in leases], "in the order they came"
    async with statements(store._transactions) as executed:
        go = await held_up(store._transactions)
        now = sqlite_place.now()
        writing = [asyncio.create_task(store.release(lease, grown(lease.session, now))) for lease in leases]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*writing)
    assert executed.count("COMMIT") == 2
    assert [(await store.get(Key("", name))).version for name in NAMES] == [1] * len(NAMES)


async def test_a_transaction_is_not_longer_than_others_should_wait(store: SqliteStore) -> None:
    async with statements(store._transactions) as executed:
        go = await held_up(store._transactions)
        checking = [store._transactions.submit(lambda: None) for _ in range(3 * MOST_AT_ONCE)]
        quarter = store._transactions.reserve.size // 4
        large = [store._transactions.submit(lambda records: None, pack=lambda: [bytes(quarter)]) for _ in range(4)]
        go.set()
        await asyncio.gather(*checking, *large)
    assert executed.count("COMMIT") == 1 + 3 + 4


async def test_one_that_fails_changes_nothing_and_fails_no_other(store: SqliteStore) -> None:
    def breaks() -> None:
        store._sql("DELETE FROM sessions WHERE id = '05'")
        raise KeyError("unexpected")

    def not_packed() -> list[bytes]:
        raise ValueError("no record")

    go = await held_up(store._transactions)
    first, second = (asyncio.create_task(store.acquire(Key("", "00"))) for _ in range(2))
    await asyncio.sleep(0)
    broken = store._transactions.submit(breaks)
    unpacked = store._transactions.submit(lambda records: None, pack=not_packed)
    last = asyncio.create_task(store.acquire(Key("", "01")))
    await asyncio.sleep(0)
    go.set()
    assert (await first).session.id == "00"
    with pytest.raises(SessionBusy):
        await second
    with pytest.raises(KeyError):
        await broken
    with pytest.raises(ValueError, match="no record"):
        await unpacked
    assert (await last).session.id == "01"
    assert (await store.get(Key("", "05"))).id == "05"


async def test_what_does_not_fit_does_not_keep_out_what_does(store: SqliteStore, sqlite_place: InFile) -> None:
    leases = [await store.acquire(Key("", name)) for name in NAMES[:3]]
    await store._transactions.do(lambda: store._sql("PRAGMA max_page_count = 20"))
    go = await held_up(store._transactions)
    changed = [
        grown(lease.session, sqlite_place.now(), size=size) for lease, size in zip(leases, (4, 20_000, 4), strict=True)
    ]
    writing = [asyncio.create_task(store.release(*one)) for one in zip(leases, changed, strict=True)]
    await asyncio.sleep(0)
    go.set()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreFull, type(None)]
    assert [(await store.get(Key("", name))).version for name in NAMES[:3]] == [1, 0, 1]


async def test_none_is_answered_where_the_file_is_gone_when_they_are_committed(
    store: SqliteStore, sqlite_place: InFile
) -> None:
    done = 0

    def removes() -> None:
        nonlocal done
        done += 1
        sqlite_place.path.unlink()

    go = await held_up(store._transactions)
    work = [store._transactions.submit(removes), store._transactions.submit(lambda: None)]
    go.set()
    for one in work:
        with pytest.raises(StoreUnavailable, match="moved, removed or replaced"):
            await one
    assert done == 1, "what was committed is not done again"


async def test_each_waits_for_other_processes_no_longer_than_it_may(store: SqliteStore, sqlite_place: InFile) -> None:
    with contextlib.closing(sqlite3.connect(sqlite_place.path, isolation_level=None)) as other:
        go = await held_up(store._transactions)
        other.execute("BEGIN IMMEDIATE")
        taking = [asyncio.create_task(store.acquire(Key("", name))) for name in NAMES]
        await asyncio.sleep(0)
        go.set()
        await asyncio.sleep(0.1)
        other.execute("ROLLBACK")
        assert [lease.session.id for lease in await asyncio.gather(*taking)] == NAMES
