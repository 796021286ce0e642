"""How stores are opened by their URLs, and what is no URL of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charloom.engine.sessions.stores import redis_connections
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.open_store import open_store
from charloom.engine.sessions.stores.redis import RedisStore
from charloom.engine.sessions.stores.sqlite import SqliteStore
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import Place, made, same


async def test_a_store_has_a_url(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    redis_server.ask("FLUSHALL")
    urls: dict[str, type[Any]] = {
        "memory:": MemoryStore,
        "sqlite:sessions.db": SqliteStore,
        f"sqlite:{tmp_path}/other.db": SqliteStore,
        redis_server.url: RedisStore,
        f"unix://{redis_server.socket}?db=1": RedisStore,
    }
    for url, kind in urls.items():
        store = await open_store(url, 10)
        assert type(store) is kind
        session = made(Place(), "a", ticks=1e9)
        await store.add([session])
        assert same(await store.get(session.key), session)
        await store.delete(session.key)
        await store.close()
    assert {path.name for path in tmp_path.glob("*.db")} == {"sessions.db", "other.db"}


@pytest.mark.parametrize(
    "url", ["", "memory", "sqlite:", "redis:", "http://x:secret@y", "sessions.db", "rdis://:secret@x"]
)
async def test_what_is_no_url_of_a_store(url: str) -> None:
    with pytest.raises(ValueError, match=r"use memory:, memory:PATH, sqlite:PATH, redis://") as refused:
        await open_store(url, 10)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", [":memory:", "//:memory:", "///:memory:", "file:x.db", "file::memory:?cache=shared"])
async def test_what_is_no_path_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="leave --store out to keep sessions in memory"):
        await open_store(f"sqlite:{path}", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://x:y/0",
        "redis://:secret@localhost/?what=7",
        "redis://:secret@localhost:1/?socket_timeout=x",
        "redis:///x?db=y",
    ],
)
async def test_what_redis_does_not_take_as_a_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URL of a Redis") as refused:
        await open_store(url, 10)
    assert "secret" not in str(refused.value)


async def test_what_refuses_says_so_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right")
    try:
        address = f"127.0.0.1:{server.port}"
        for url in (f"redis://{address}", f"redis://:wrong@{address}", f"redis://:right@{address}/99"):
            with pytest.raises(ValueError, match=rf"cannot keep sessions in redis://{address}.*: ") as refused:
                await open_store(url, 10)
            assert "wrong" not in str(refused.value).replace("WRONGPASS", "")
        store = await open_store(f"redis://:right@{address}", 10)
        await store.close()
        monkeypatch.setattr(redis_connections, "_CONNECT", 1.0)  # it goes on waiting for the end of a line
        with pytest.raises(OSError, match="cannot keep sessions in rediss://"):
            await open_store(f"rediss://{address}", 10)
    finally:
        server.kill()
    with pytest.raises(OSError, match="cannot keep sessions in unix:///nowhere"):
        await open_store("unix:///nowhere", 10)


async def test_without_the_client_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ValueError, match=r"pip install 'charloom\[server\]'"):
        await open_store("redis://localhost", 10)
    await (await open_store("memory:", 1)).close()


def test_stores_are_imported_only_where_they_are_used() -> None:
    module = "charloom.engine.sessions.stores.open_store"
    code = f"import sys, {module}; print('redis' in sys.modules, 'sqlite3' in sys.modules)"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "False False\n"
