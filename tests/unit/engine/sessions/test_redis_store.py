"""What can happen to a Redis: it hangs, dies, forgets, or has no memory left."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from charloom.engine.errors import (
    SessionBusy,
    SessionDeleted,
    SessionNotFound,
    SessionTakenOver,
    StoreFull,
    StoreUnavailable,
)
from charloom.engine.sessions.session import Call, Key
from charloom.engine.sessions.stores import redis_connections
from charloom.engine.sessions.stores.open_store import open_store
from charloom.engine.sessions.stores.store import TOMBSTONE_SECONDS
from tests.ports import free_port
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import LEASE, InRedis, grown, ids, made, same
from tests.waiting import eventually

AT_ONCE = 30.0
"""Seconds in which a hundred calls end that wait a second each, if they wait at the same time."""


async def unavailable(attempt: Any) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        await asyncio.wait_for(attempt, AT_ONCE)
    return str(refused.value)


async def test_a_redis_that_hangs(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    patient = redis_place.open()
    await patient.add([made(redis_place, "a", ticks=600)])
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("_CONNECT", 1.0), ("_ANSWER", 1.0), ("_PATIENCE", 1.5)):
            patch.setattr(redis_connections, name, seconds)
        store = redis_place.open()
        while True:
            with contextlib.suppress(StoreUnavailable):
                await store.check()
                break
        doomed_redis.ask("CONFIG", "RESETSTAT")
        doomed_redis.pause()
        try:
            await unavailable(store.acquire(Key("", "a")))
        finally:
            doomed_redis.go_on()
        assert "cmdstat_evalsha:calls=1," in doomed_redis.ask("INFO", "commandstats"), "it was not told twice"
        doomed_redis.pause()
        try:
            start = time.monotonic()
            outcomes = await asyncio.gather(*(store.get(Key("", "a")) for _ in range(100)), return_exceptions=True)
            assert time.monotonic() - start < AT_ONCE
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        finally:
            doomed_redis.go_on()
    await redis_place.wait(LEASE)  # it may have done what nobody waited for any more
    lease = await patient.acquire(Key("", "a"))
    await patient.release(lease, lease.session)


async def test_a_redis_that_is_gone(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a")])
    doomed_redis.kill()
    for attempt in (store.get, store.acquire, store.delete):
        assert "no answer within" not in await unavailable(attempt(Key("", "a"))), "nobody is waited for"
    for other in (store.page("", "", 9), store.sweep(), store.add([made(redis_place, "b")]), store.renew([])):
        assert "no answer within" not in await unavailable(other)
    with pytest.raises(
        OSError, match=rf"cannot keep sessions in redis://127.0.0.1:{doomed_redis.port}/0: .*connecting"
    ):
        await open_store(doomed_redis.url, 10)


async def test_a_redis_that_comes_back_empty(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, name, ticks=600) for name in ("idle", "held", "written")])
    held, written = [await store.acquire(Key("", name), name) for name in ("held", "written")]
    doomed_redis.kill()
    assert doomed_redis.start()
    await asyncio.sleep(0.05)  # until it is noticed that the connections are closed
    with pytest.raises(SessionNotFound):
        await store.get(Key("", "idle"))
    await store.add([made(redis_place, "new")])
    new = await store.acquire(Key("", "new"))
    assert new.fence > max(held.fence, written.fence)
    await store.release(new, new.session)
    await store.delete(Key("", "new"))
    assert await store.renew([held, written]) == []
    await store.release(held, grown(held.session, redis_place.now()))
    on_the_way = grown(written.session, redis_place.now(), Call("written", 0, 1))
    await store.write(written, on_the_way)
    assert await ids(store) == ["held", "written"]
    assert (await store.get(Key("", "held"))).version == 1
    again = await store.acquire(Key("", "held"))
    assert again.fence > max(held.fence, written.fence)
    with pytest.raises(SessionTakenOver):
        await store.write(held, held.session)
    with pytest.raises(SessionBusy):
        await store.acquire(Key("", "written"))
    resumed = await store.acquire(Key("", "written"), "written")
    assert resumed.same_call
    assert resumed.fence > again.fence
    with pytest.raises(SessionTakenOver):
        await store.write(written, on_the_way)


async def test_an_id_that_was_taken_meanwhile_is_not_written_back(
    doomed_redis: RedisServer, redis_place: InRedis
) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a")])
    lease = await store.acquire(Key("", "a"))
    doomed_redis.ask("FLUSHALL")
    await store.add([made(redis_place, "a")])
    assert await store.renew([lease]) == [lease]
    with pytest.raises(SessionTakenOver):
        await store.release(lease, grown(lease.session, redis_place.now()))


async def test_a_session_that_redis_evicted_is_unknown_and_written_back(
    doomed_redis: RedisServer, redis_place: InRedis
) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a"), made(redis_place, "b")])
    lease = await store.acquire(Key("", "a"))
    for name in "ab":
        doomed_redis.ask("DEL", f"{{charloom}}:session:0::{name}")
        with pytest.raises(SessionNotFound) as refused:
            await store.get(Key("", name))
        assert type(refused.value) is SessionNotFound
    assert await ids(store) == []
    assert doomed_redis.ask("ZCARD", "{charloom}:index") == doomed_redis.ask("ZCARD", "{charloom}:due") == ":0\r\n"
    assert await store.renew([lease]) == []
    await store.release(lease, grown(lease.session, redis_place.now()))
    assert await ids(store) == ["a"]


async def test_a_redis_without_memory(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=600), made(redis_place, "b", ticks=600)])
    await store.add([made(redis_place, "expired", ticks=1)])
    lease = await store.acquire(Key("", "a"))
    before = grown(lease.session, redis_place.now())
    await store.write(lease, before)
    doomed_redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    try:
        for method in (store.write, store.release):
            with pytest.raises(StoreFull):
                await method(lease, grown(before, redis_place.now(), size=8000))
        with pytest.raises(StoreFull):
            await store.add([made(redis_place, "c")])
        with pytest.raises(StoreFull):
            await store.acquire(Key("", "b"))
        assert same(await store.get(Key("", "a")), before)
        for _ in range(3):
            await redis_place.wait(LEASE / 2)
            assert await store.renew([lease]) == []
        with pytest.raises(SessionBusy):
            await store.acquire(Key("", "a"))
        assert await store.sweep() == 1
        assert await ids(store) == ["a", "b"]
        await redis_place.wait(LEASE + 1)
        assert await store.renew([lease]) == [], "it ended, and is nobody else's"
        await store.check()
        await store.delete(Key("", "b"))
        with pytest.raises(SessionDeleted):
            await store.get(Key("", "b"))
    finally:
        doomed_redis.ask("CONFIG", "SET", "maxmemory", "0")
    await store.release(lease, grown(before, redis_place.now()))
    assert (await store.get(Key("", "a"))).version == 2


REFUSALS: dict[str, tuple[list[tuple[str, ...]], tuple[str, ...]]] = {
    "read only": ([("REPLICAOF", "127.0.0.1", "1")], ("REPLICAOF", "NO", "ONE")),
    "MASTER is down": (
        [("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", "1")],
        ("REPLICAOF", "NO", "ONE"),
    ),
    "Not enough good replicas": (
        [("CONFIG", "SET", "min-replicas-to-write", "1")],
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}
"""What Redis says, the commands that make it say so, and the one that ends it."""


@pytest.mark.parametrize("said", REFUSALS)
async def test_a_redis_that_does_not_take_writes(doomed_redis: RedisServer, redis_place: InRedis, said: str) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=600)])
    lease = await store.acquire(Key("", "a"))
    begin, end = REFUSALS[said]
    for command in begin:
        doomed_redis.told(*command)
    attempts = (
        *(store.check(), store.acquire(Key("", "b")), store.add([made(redis_place, "c")]), store.delete(Key("", "a"))),
        *(store.write(lease, lease.session), store.release(lease, lease.session)),
    )
    problems = await asyncio.gather(*attempts, return_exceptions=True)
    for problem in (problems[0], *problems[4:]):
        assert isinstance(problem, StoreUnavailable), "check, write and release"
    for problem in problems:
        # Where it is a master still, it tells what it has.
        assert type(problem) in (StoreUnavailable, SessionNotFound, SessionBusy), problem
        if isinstance(problem, StoreUnavailable):
            assert said in str(problem)
            assert not re.search("[0-9a-f]{40}|script", str(problem))
    trying = asyncio.gather(store.check(), store.release(lease, grown(lease.session, redis_place.now())))
    await asyncio.sleep(0.3)
    assert not trying.done()
    doomed_redis.told(*end)
    await trying
    assert (await store.get(Key("", "a"))).version == 1


async def test_what_a_replica_has_may_be_old_and_is_not_answered(
    doomed_redis: RedisServer, redis_place: InRedis
) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=600)])
    lease = await store.acquire(Key("", "a"))
    doomed_redis.told("REPLICAOF", "127.0.0.1", "1")
    attempts = (
        *(store.get(Key("", "a")), store.get(Key("", "unknown")), store.page("", "", 9), store.acquire(Key("", "a"))),
        *(store.acquire(Key("", "unknown")), store.add([made(redis_place, "a")]), store.renew([lease]), store.sweep()),
    )
    for problem in await asyncio.gather(*attempts, return_exceptions=True):
        assert isinstance(problem, StoreUnavailable), problem
        assert "read only" in str(problem)


async def test_a_redis_that_is_loading(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--loading-process-events-interval-bytes", "1024", "--key-load-delay", "500000")
    place = InRedis(server.url)
    try:
        store = place.open()
        await store.add([made(place, f"{number}", ticks=600) for number in range(20)])
        server.told("SAVE")
        server.kill()
        assert server.start()
        await asyncio.sleep(0.05)  # until it is noticed that the connections are closed
        assert "-LOADING" in server.ask("GET", "x")
        trying = asyncio.create_task(ids(store))
        await asyncio.sleep(0.3)
        assert not trying.done()
        server.told("CONFIG", "SET", "key-load-delay", "0")
        assert len(await trying) == 20
        await place.close()
    finally:
        server.kill()


async def test_a_redis_that_wants_a_password_for_a_moment(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=600)])
    doomed_redis.told("CONFIG", "SET", "requirepass", "secret")
    with redis.Redis(port=doomed_redis.port, password="secret") as known:
        known.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.05)
        assert "Authentication required" in await unavailable(store.get(Key("", "a")))
        trying = asyncio.create_task(store.get(Key("", "a")))
        await asyncio.sleep(0.3)
        known.config_set("requirepass", "")
        assert (await trying).id == "a"


async def test_a_redis_that_runs_another_script_for_long(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=600)])
    doomed_redis.told("CONFIG", "SET", "lua-time-limit", "10")
    _, writer = await asyncio.open_connection("127.0.0.1", doomed_redis.port)
    writer.write(b"EVAL 'while true do end' 0\r\n".replace(b"'", b'"'))
    eventually(lambda: "-BUSY" in doomed_redis.ask("PING"))
    trying = asyncio.create_task(store.get(Key("", "a")))
    await asyncio.sleep(0.3)
    assert not trying.done()
    doomed_redis.told("SCRIPT", "KILL")
    assert (await trying).id == "a"
    writer.close()


async def test_a_redis_that_lost_its_slots(tmp_path: Path) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-require-full-coverage", "no")
    server = RedisServer(tmp_path, *options)
    place = InRedis(server.url)
    slot = server.ask("CLUSTER", "KEYSLOT", "{charloom}:")[1:].strip()
    try:
        with pytest.raises(ValueError, match=r"cannot keep sessions in .*: Hash slot not served"):
            await open_store(server.url, 10)
        server.told("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        while "cluster_state:ok" not in server.ask("CLUSTER", "INFO"):
            await asyncio.sleep(0.05)
        store = place.open()
        await store.add([made(place, "a", ticks=600)])
        server.told("CLUSTER", "DELSLOTS", slot)
        trying = asyncio.create_task(store.get(Key("", "a")))
        await asyncio.sleep(0.3)
        assert not trying.done()
        server.told("CLUSTER", "ADDSLOTS", slot)
        assert (await trying).id == "a"
        await place.close()
    finally:
        server.kill()


@pytest.mark.parametrize(
    "refusal",
    [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MOVED 8546 127.0.0.1:1",
        "NOREPLICAS Not enough good replicas to write.",
    ],
)
async def test_what_redis_refuses_for_a_moment_is_asked_again_on_a_new_connection(refusal: str) -> None:
    """What a test can hardly bring a real Redis to say. Each connection to this one is refused once, and then works."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while count := await reader.readline():
            words = [await reader.readexactly(int((await reader.readline())[1:]) + 2) for _ in range(int(count[1:]))]
            if words[0] == b"EVALSHA\r\n":
                asked += 1
            writer.write(
                b"+OK\r\n" if words[0] != b"EVALSHA\r\n" else f"-{refusal}\r\n".encode() if asked < 3 else b"*0\r\n"
            )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        place = InRedis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await place.open().check()
        assert asked == 3
        await place.close()


@pytest.mark.parametrize(("policy", "warned"), [("allkeys-lru", True), ("volatile-ttl", True), ("noeviction", False)])
async def test_a_redis_that_may_evict_sessions_is_told_at_the_start(
    doomed_redis: RedisServer, caplog: pytest.LogCaptureFixture, policy: str, warned: bool
) -> None:
    doomed_redis.told("CONFIG", "SET", "maxmemory-policy", policy)
    await (await open_store(doomed_redis.url, 10)).close()
    assert not caplog.messages, "memory has no limit"
    doomed_redis.told("CONFIG", "SET", "maxmemory", "1gb")
    await (await open_store(doomed_redis.url, 10)).close()
    assert bool(caplog.messages) is warned
    if warned:
        assert f"maxmemory-policy {policy}" in caplog.text
        assert "set maxmemory-policy noeviction" in caplog.text


async def test_a_policy_that_may_not_be_read_is_told_too(
    doomed_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    doomed_redis.told("ACL", "SETUSER", "modest", "on", "nopass", "~*", "+@all", "-info")
    await (await open_store(f"redis://modest:any@127.0.0.1:{doomed_redis.port}", 10)).close()
    assert "whether redis://127.0.0.1" in caplog.text


async def test_a_redis_that_forgot_the_scripts(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    store = redis_place.open()
    await store.add([made(redis_place, "a")])
    doomed_redis.ask("SCRIPT", "FLUSH")
    assert await ids(store) == ["a"]


async def test_what_redis_keeps_has_an_end(doomed_redis: RedisServer, redis_place: InRedis) -> None:
    """All but the lists and the last fence, which sweeping and one number keep small."""
    store = redis_place.open()
    await store.add([made(redis_place, "a", ticks=5), made(redis_place, "b", ticks=5), made(redis_place, "c", ticks=5)])
    lease = await store.acquire(Key("", "a"))
    await store.write(lease, lease.session)
    await store.delete(Key("", "b"))
    days = {}
    for name in ("session", "lease", "mark"):
        for session_id in "abc":
            answer = doomed_redis.ask("PTTL", f"{{charloom}}:{name}:0::{session_id}")
            days[name, session_id] = int(answer[1:]) / 1000 / TOMBSTONE_SECONDS
    gone = -2 / 1000 / TOMBSTONE_SECONDS
    assert {key for key, value in days.items() if value == gone} == {("session", "b"), ("lease", "b"), ("lease", "c")}
    assert all(0 < value < 0.01 for (name, _), value in days.items() if name != "mark" and value != gone)
    assert all(0.99 < value < 1.01 for (name, _), value in days.items() if name == "mark")
    await redis_place.wait(LEASE + 1)
    assert await store.sweep() == 2
    assert doomed_redis.ask("ZCARD", "{charloom}:index") == doomed_redis.ask("ZCARD", "{charloom}:due") == ":0\r\n"
    assert doomed_redis.ask("DBSIZE") == ":4\r\n", "three marks and the fence"
