"""What can happen to a file, and to processes that share it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from charloom.engine.errors import (
    SessionBusy,
    SessionDeleted,
    SessionExpired,
    SessionNotFound,
    SessionTakenOver,
    StoreFull,
    StoreUnavailable,
)
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores import sqlite_forgotten, sqlite_transactions
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS
from tests.unit.engine.stores import START, InFile, grown, ids, made, same

CHILD = """
import asyncio, sys
import numpy as np
from charloom.engine.clock import utc_now
from charloom.engine.errors import SessionBusy
from charloom.engine.sessions.session import Key
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.sessions.stores import sqlite_file, sqlite_transactions
from charloom.engine.sessions.stores.sqlite import SqliteStore

sqlite_file.PATIENCE = sqlite_transactions.PATIENCE = 60.0  # however busy the machine

async def main():
    store = SqliteStore(sys.argv[1], 1000, lease_seconds=600)
    print("open", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        while True:
            try:
                lease = await store.acquire(Key("", "a"))
                break
            except SessionBusy:
                await asyncio.sleep(0.0005)
        session = lease.session
        version = session.version + 1
        snapshot = Snapshot(np.full((2, 2, 1000), version, np.float32), (version,), version, 1)
        await store.release(lease, session.changed(utc_now(), snapshot, session.history))
        print(version, flush=True)
    await store.close()

asyncio.run(main())
"""


def child(path: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(path), str(rounds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


class RealTime(InFile):
    def make(self, capacity: int) -> SqliteStore:
        return SqliteStore(self.path, capacity, lease_seconds=0.3)

    def now(self) -> datetime:
        return datetime.now(timezone.utc)


async def test_processes_share_a_file(tmp_path: Path) -> None:
    place = RealTime(tmp_path / "sessions.db")
    children = [child(place.path, 100) for _ in range(3)]  # which make the file together
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    store = place.open()
    await store.add([made(place, "a")])
    for process in children:
        go(process)
    printed = [await asyncio.to_thread(process.communicate) for process in children]
    assert [process.returncode for process in children] == [0, 0, 0]
    versions = [int(line) for out, _ in printed for line in out.split()]
    assert sorted(versions) == list(range(1, 301)), "no change was lost"
    assert (await store.get(Key("", "a"))).version == 300
    await place.close()


async def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    place = RealTime(tmp_path / "sessions.db")
    store = place.open()
    await store.add([made(place, "a")])
    await store.close()
    for seed in range(5):
        process = child(place.path, 10**9)
        assert process.stdout is not None
        process.stdout.readline()
        go(process)
        first = int(process.stdout.readline())
        time.sleep(random.Random(seed).uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        store = place.open()
        session = await store.get(Key("", "a"))
        last = int(rest.split()[-1]) if rest.strip() else first
        assert last <= session.version <= last + 1, "what it printed was written; one more may have been"
        assert session.snapshot.position == session.version
        assert (session.snapshot.state == session.version).all()
        with sqlite3.connect(place.path) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()
        while True:  # the lease that the dead process may have held
            with contextlib.suppress(SessionBusy):
                lease = await store.acquire(Key("", "a"))
                break
            await asyncio.sleep(0.01)
        await store.release(lease, lease.session)
        await store.close()


async def test_a_full_disk_leaves_the_sessions_as_they_were(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    assert isinstance(store, SqliteStore)
    await store.add([made(sqlite_place, "a"), made(sqlite_place, "b")])
    lease = await store.acquire(Key("", "a"))
    changed = grown(lease.session, sqlite_place.now(), size=4)
    await store.write(lease, changed)
    await store._transactions.do(lambda: store._sql("PRAGMA max_page_count = 20"))
    for method in (store.write, store.release):
        with pytest.raises(StoreFull):
            await method(lease, grown(changed, sqlite_place.now(), size=20_000))
    with pytest.raises(StoreFull):
        await store.add(
            [replace(changed, id=f"new {n}", snapshot=grown(changed, START, size=900).snapshot) for n in range(9)]
        )
    assert same(await store.get(Key("", "a")), changed)
    assert await ids(store) == ["a", "b"]
    with pytest.raises(SessionBusy):
        await store.acquire(Key("", "a"))
    await store.delete(Key("", "b"))
    await store._transactions.do(lambda: store._sql("PRAGMA max_page_count = 100000"))
    await store.release(lease, grown(changed, sqlite_place.now(), size=20_000))
    assert (await store.get(Key("", "a"))).version == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """As another program does."""
    with (folder / "other").open("ab", buffering=0) as other, contextlib.suppress(OSError):
        while True:
            other.write(bytes(512))


async def add_until_full(store: SqliteStore, place: InFile, name: str, size: int) -> int:
    for number in range(1, 2000):
        base = made(place, f"{name} {number:04}", ticks=60 if number % 2 else 600)
        try:
            await store.add([replace(base, snapshot=grown(base, START, size=size).snapshot)])
        except StoreFull:
            return number - 1
    raise AssertionError("it was never full")


@pytest.mark.parametrize("others", [False, True], ids=["alone", "others fill it too"])
@pytest.mark.parametrize("size", [4, 2000, 6000])
async def test_a_full_disk_can_be_emptied(small_disk: Path, size: int, others: bool) -> None:
    place = InFile(small_disk / "sessions.db")
    store = place.make(2000)
    added = await add_until_full(store, place, "old", size)
    assert added > 3
    if others:
        fill(small_disk)
    names = await ids(store)
    assert len(names) == added
    await store.delete(Key("", names[0]))
    assert await ids(store) == names[1:]
    await store.close()
    store = place.make(2000)
    assert await ids(store) == names[1:]
    await store.check()
    await place.wait(100)
    assert await store.sweep() == added - added // 2 - 1
    await place.wait(600)
    assert await store.sweep() == added // 2
    assert await ids(store) == []
    await place.wait(TOMBSTONE_SECONDS)
    await store.sweep()
    with pytest.raises(SessionNotFound):
        await store.get(Key("", names[1]))
    if not others:
        assert await add_until_full(store, place, "new", size) > added / 2
    await store.close()


@pytest.mark.parametrize("others", [False, True], ids=["alone", "others fill it too"])
@pytest.mark.parametrize("size", [4, 6000])
async def test_a_tenant_is_erased_from_a_full_disk(small_disk: Path, size: int, others: bool) -> None:
    place = InFile(small_disk / "sessions.db")
    store = place.make(2000)
    added = await add_until_full(store, place, "old", size)
    if others:
        fill(small_disk)
    names = await ids(store)
    assert [one.id for one in await store.erase("", 2000)] == names
    assert (len(names), await ids(store)) == (added, [])
    await store.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 does not say why it failed")
async def test_a_server_starts_on_a_full_disk(small_disk: Path) -> None:
    place = InFile(small_disk / "sessions.db")
    store = place.make(2000)
    added = await add_until_full(store, place, "old", 2000)
    await store.close()
    fill(small_disk)
    store = place.make(2000)
    more = await add_until_full(store, place, "new", 4)
    assert more < 10, "there is room in the log alone"
    await place.wait(1000)
    assert await store.sweep() == added + more
    await store.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 does not say why it failed")
async def test_a_full_disk_without_room_for_sqlites_own_files_is_no_hindrance(small_disk: Path) -> None:
    """They are made when the database is opened, and removed when it is closed."""
    place = InFile(small_disk / "sessions.db")
    store = place.make(2000)
    await store.add([made(place, name) for name in "ab"])
    await store.close()
    assert sorted(path.name for path in small_disk.iterdir()) == ["sessions.db", "sessions.db-reserve"]
    fill(small_disk)
    store = place.make(2000)
    await store.delete(Key("", "a"))
    await place.wait(1000)
    assert await store.sweep() == 1
    await store.close()


async def test_new_sessions_are_refused_before_the_disk_is_full(small_disk: Path) -> None:
    place = InFile(small_disk / "sessions.db")
    store = place.make(2000)
    await add_until_full(store, place, "old", 2000)
    assert place.path.with_name("sessions.db-reserve").stat().st_size == 2**18
    for name in await ids(store):
        lease = await store.acquire(Key("", name)) if name == "old 0002" else None
        if lease is None:
            await store.delete(Key("", name))
        else:
            await store.release(lease, grown(lease.session, place.now(), size=2000))
    assert await ids(store) == ["old 0002"]
    await store.close()


QUOTA = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[2])
from charloom.engine.errors import StoreFull
from charloom.engine.sessions.session import Key
from tests.unit.engine.stores import InFile, grown, made, same
from pathlib import Path

async def main():
    place = InFile(Path(sys.argv[1]))
    store = place.open()
    await store.add([made(place, "a")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    lease = await store.acquire(Key("", "a"))
    for size in (100_000, 4):
        try:
            await store.release(lease, grown(lease.session, place.now(), size=size))
            print("done")
        except StoreFull as problem:
            assert same(await store.get(Key("", "a")), lease.session)
            print("full")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 does not say why a write failed")
def test_a_quota_is_a_full_store(tmp_path: Path) -> None:
    root = Path(__file__).parents[4]
    command = [sys.executable, "-c", QUOTA, str(tmp_path / "sessions.db"), str(root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "full\ndone\n"


async def test_another_transaction_is_waited_for_and_not_for_ever(
    sqlite_place: InFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite_place.open()
    await store.add([made(sqlite_place, "a")])
    with contextlib.closing(sqlite3.connect(sqlite_place.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.acquire(Key("", "a")))
        await asyncio.sleep(0.2)
        other.execute("ROLLBACK")
        lease = await waiting
        monkeypatch.setattr(sqlite_transactions, "PATIENCE", 0.3)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        writes = (store.write(lease, lease.session) for _ in range(100))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert time.monotonic() - start < 100 * 0.3 / 2, "they wait at the same time"
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert await ids(store) == ["a"], "reading waits for nobody"
        other.execute("ROLLBACK")
    await store.release(lease, lease.session)


async def test_a_file_that_breaks_is_a_store_that_does_not_answer(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    await store.add([made(sqlite_place, f"session {number}") for number in range(100)])
    await store.close()
    content = bytearray(sqlite_place.path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    sqlite_place.path.write_bytes(content)
    store = sqlite_place.open()
    for attempt in (store.page("", "", 10), store.add([made(sqlite_place, "a")]), store.sweep()):
        with pytest.raises(StoreUnavailable):
            await attempt


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
async def test_a_file_that_is_moved_away_is_noticed_and_so_is_its_return(sqlite_place: InFile, end: str) -> None:
    store = sqlite_place.open()
    await store.add([made(sqlite_place, "a"), made(sqlite_place, "b")])
    lease = await store.acquire(Key("", "a"))
    file = sqlite_place.path.with_name(sqlite_place.path.name + end)
    away = file.with_name("away")
    for replaced in (False, True):
        file.rename(away)
        if replaced:
            file.write_bytes(away.read_bytes())
        attempts = (
            *(store.check(), store.add([made(sqlite_place, "c")]), store.get(Key("", "a")), store.page("", "", 9)),
            *(store.acquire(Key("", "b")), store.write(lease, lease.session), store.release(lease, lease.session)),
            *(store.renew([lease]), store.delete(Key("", "b")), store.sweep()),
        )
        for attempt in attempts:
            with pytest.raises(StoreUnavailable, match="moved, removed or replaced"):
                await attempt
        away.replace(file)
        await store.check()
    await store.release(lease, grown(lease.session, sqlite_place.now()))
    assert (await store.get(Key("", "a"))).version == 1
    assert await ids(store) == ["a", "b"]


async def test_what_is_written_while_the_file_is_removed_is_not_answered(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    assert isinstance(store, SqliteStore)
    with pytest.raises(StoreUnavailable):
        await store._transactions.do(sqlite_place.path.unlink)


async def test_the_log_of_a_file_that_is_gone(sqlite_place: InFile) -> None:
    old = sqlite_place.open()
    await old.add([made(sqlite_place, "a")])
    sqlite_place.path.unlink()
    logs = sorted(path.name for path in sqlite_place.path.parent.iterdir())
    for _ in range(2):
        with pytest.raises(OSError, match=r"sessions\.db: the file is gone, but its log .*db-wal is there"):
            sqlite_place.make(10)
        assert sorted(path.name for path in sqlite_place.path.parent.iterdir()) == logs, "nothing was made or removed"
    for name in logs:
        sqlite_place.path.with_name(name).unlink()
    store = sqlite_place.open()
    await store.add([made(sqlite_place, "a")])
    await old.close()
    await store.check()
    assert await ids(store) == ["a"], "the old one took nothing with it"


def test_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing/sessions\.db: No such file"):
        SqliteStore(tmp_path / "missing" / "sessions.db", 1)
    with pytest.raises(OSError, match="unable to open"):
        SqliteStore(tmp_path, 1)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\7" * 5000])
def test_what_is_not_a_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sessions\.db: .*name another file"):
        SqliteStore(path, 1)
    assert path.read_bytes() == content


async def test_another_schema_or_program_is_refused_and_left_alone(sqlite_place: InFile) -> None:
    await sqlite_place.open().close()
    with contextlib.closing(sqlite3.connect(sqlite_place.path)) as raw:
        raw.execute("PRAGMA user_version = 7")
    with pytest.raises(ValueError, match="it has version 7, this server reads 1"):
        SqliteStore(sqlite_place.path, 1)
    other = sqlite_place.path.with_name("other.db")
    with contextlib.closing(sqlite3.connect(other)) as raw:
        raw.execute("CREATE TABLE sessions (x)")
        raw.execute("PRAGMA user_version = 1")
    content = other.read_bytes()
    with pytest.raises(ValueError, match="a database of something else"):
        SqliteStore(other, 1)
    assert other.read_bytes() == content


async def test_the_machine_boots_while_a_lease_is_held(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    await store.add([made(sqlite_place, "a"), made(sqlite_place, "b", ticks=3)])
    lease = await store.acquire(Key("", "a"), "call")
    await store.acquire(Key("", "b"))
    await sqlite_place.wait(4)
    sqlite_place.clock.uptime = 5.0
    with pytest.raises(SessionExpired):
        await store.get(Key("", "b"))
    later = await store.acquire(Key("", "a"))
    assert later.fence > lease.fence
    with pytest.raises(SessionTakenOver):
        await store.release(lease, lease.session)


async def test_the_wall_clock_jumps(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    await store.add([made(sqlite_place, "a")])
    sqlite_place.clock.wall -= timedelta(days=400)
    lease = await store.acquire(Key("", "a"))
    await store.add([made(sqlite_place, "b")])
    await store.delete(Key("", "b"))
    assert await store.sweep() == 0
    sqlite_place.clock.wall += timedelta(days=800)
    with pytest.raises(SessionBusy):
        await store.acquire(Key("", "a"))
    await store.release(lease, lease.session.renewed(sqlite_place.now()))
    assert await ids(store) == ["a"]


async def test_the_file_is_for_nobody_else_and_its_log_does_not_grow_for_ever(sqlite_place: InFile) -> None:
    store, key = sqlite_place.open(), Key("", "a")
    await store.add([made(sqlite_place, "a")])
    for _ in range(300):
        lease = await store.acquire(key)
        await store.release(lease, grown(lease.session, sqlite_place.now(), size=8000))
    logs = [path for path in sqlite_place.path.parent.iterdir() if path.name.endswith("-wal")]
    assert len(logs) == 1
    assert logs[0].stat().st_size < 8e6
    for path in (sqlite_place.path, *logs):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_tombstones_are_not_kept_without_bound(sqlite_place: InFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_forgotten, "MOST_TOMBSTONES", 10)
    store = sqlite_place.open()
    for number in range(20):
        await store.add([made(sqlite_place, f"{number}")])
        await store.delete(Key("", f"{number}"))
        await sqlite_place.wait(1)
    await store.sweep()
    with pytest.raises(SessionDeleted):
        await store.get(Key("", "10"))
    with pytest.raises(SessionNotFound) as refused:
        await store.get(Key("", "9"))
    assert type(refused.value) is SessionNotFound


async def test_a_closed_store_says_so(sqlite_place: InFile) -> None:
    store = sqlite_place.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(Key("", "a"))
