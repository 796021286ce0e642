"""A master that becomes a replica and keeps its connections, and its replica that becomes the master."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from charloom.engine.errors import StoreUnavailable
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.open_store import open_store
from tests.unit.engine.redis_server import RedisServer, Sentinel
from tests.unit.engine.stores import InRedis, grown, ids, made


class Failover:
    """Two of which one follows the other, and a name for the one that takes writes."""

    def __init__(self, folder: Path) -> None:
        for name in ("one", "other"):
            (folder / name).mkdir()
        self.one, self.other = (
            RedisServer(folder / name, "--repl-diskless-sync-delay", "0") for name in ("one", "other")
        )
        self.name = folder / "master.sock"
        self.name.symlink_to(self.one.socket)
        self.other.told("REPLICAOF", "127.0.0.1", str(self.one.port))
        end = time.monotonic() + 30
        while "master_link_status:up" not in self.other.ask("INFO", "replication"):
            assert time.monotonic() < end
            time.sleep(0.02)

    def until_caught_up(self) -> None:
        """Wait until the replica has all that was written. (WAIT waits for its own connection's writes alone.)"""
        end = time.monotonic() + 30
        while offset(self.one, "master_repl_offset") != offset(self.other, "slave_repl_offset"):
            assert time.monotonic() < end
            time.sleep(0.02)

    def happen(self) -> None:
        self.until_caught_up()
        self.other.told("REPLICAOF", "NO", "ONE")
        self.one.told("REPLICAOF", "127.0.0.1", str(self.other.port))
        self.name.unlink()
        self.name.symlink_to(self.other.socket)

    def end(self) -> None:
        self.one.kill()
        self.other.kill()


def offset(server: RedisServer, which: str) -> int:
    """How much of the master's writing there is, in bytes."""
    found = re.search(rf"{which}:(\d+)", server.ask("INFO", "replication"))
    assert found is not None
    return int(found[1])


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    failover = Failover(tmp_path)
    yield failover
    failover.end()


async def test_the_connections_to_a_master_that_became_a_replica_are_left(failover: Failover) -> None:
    place = InRedis(f"unix://{failover.name}")
    store = place.open()
    await store.add([made(place, name, ticks=600) for name in ("a", "b", "c")])
    lease = await store.acquire(Key("", "a"))
    # Each has a connection of its own.
    await asyncio.gather(*(store.get(Key("", "b")) for _ in range(20)))
    failover.happen()
    start = time.monotonic()
    await asyncio.gather(
        *(store.get(Key("", "b")) for _ in range(20)),
        *(store.check(), store.renew([lease]), store.write(lease, grown(lease.session, place.now()))),
        *(store.acquire(Key("", "b")), store.delete(Key("", "c"))),
    )
    assert time.monotonic() - start < 3
    assert (await store.get(Key("", "a"))).version == 1
    assert await ids(store) == ["a", "b"]
    connected = failover.one.ask("CLIENT", "LIST", "TYPE", "normal")
    assert connected.count("cmd=evalsha") == 0, "none was forgotten"
    await place.close()


@pytest.fixture
def sentinel(failover: Failover, tmp_path: Path) -> Iterator[Sentinel]:
    sentinel = Sentinel(tmp_path, failover.one.port)
    yield sentinel
    sentinel.kill()


async def test_the_master_is_the_one_that_the_sentinels_name(failover: Failover, sentinel: Sentinel) -> None:
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/charloom/0"
    store = await open_store(url, 10)
    place = InRedis(url)
    await store.add([made(place, "a", ticks=600)])
    await asyncio.gather(*(store.get(Key("", "a")) for _ in range(20)))
    failover.until_caught_up()
    sentinel.fail_over(failover.one.port, failover.other.port)
    lease = await store.acquire(Key("", "a"))
    await store.release(lease, grown(lease.session, place.now()))
    assert (await store.get(Key("", "a"))).version == 1
    assert failover.other.ask("HEXISTS", "{charloom}:session:0::a", "record") == ":1\r\n"
    sentinel.kill()
    failover.other.kill()
    with pytest.raises(StoreUnavailable) as refused:
        await store.get(Key("", "a"))
    assert "Redis<" not in str(refused.value)
    await store.close()


async def test_where_no_sentinel_knows_a_master(sentinel: Sentinel) -> None:
    address = f"127.0.0.1:{sentinel.port}"
    with pytest.raises(OSError, match=rf"cannot keep sessions in redis\+sentinel://{address}/nobody: .*'nobody'$"):
        await open_store(f"redis+sentinel://:secret@{address}/nobody", 10)
    with pytest.raises(OSError, match=rf"No master found for 'charloom' : {address} - .*AuthenticationError"):
        await open_store(f"redis+sentinel://{address}/charloom?sentinel_password=secret", 10)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://:secret@/charloom/0", "name the sentinels"),
        ("redis+sentinel://:secret@one:26379", "name the service"),
        ("redis+sentinel://:secret@one:port/charloom", "is not a URL of a Redis"),
        ("redis+sentinel://:secret@one/charloom?what=7", "is not a URL of a Redis"),
    ],
)
async def test_what_is_no_url_of_sentinels(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        await open_store(url, 10)
    assert "secret" not in str(refused.value)
