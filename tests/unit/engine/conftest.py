"""A loom on the default decoder of the small model, and places for sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.loom import jobs
from charloom.engine.loom.stops import StopAutomaton
from charloom.engine.sessions.stores import redis_connections, sqlite_file, sqlite_reserve, sqlite_transactions
from tests.unit.engine.looms import Harness
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import InFile, InRedis, Place


@pytest.fixture
def harness(decoder: Decoder, bundle: Bundle) -> Iterator[Harness]:
    harness = Harness(decoder, bundle.manifest.start_token)
    yield harness
    harness.loom.drain(0)


@pytest.fixture
def stop_automata(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Those that are made from stop strings from now on."""
    made: list[object] = []

    class Noted(StopAutomaton):
        def __init__(self, patterns: Sequence[Sequence[int]]) -> None:
            made.append(self)
            super().__init__(patterns)

    monkeypatch.setattr(jobs, "StopAutomaton", Noted)
    return made


@pytest.fixture(autouse=True, scope="session")
def _little_disk() -> Iterator[None]:
    """What tests leave on the disk is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_reserve, "RESERVE_BYTES", 2**18)
        yield


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """What should be answered may take long on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_CONNECT", "_ANSWER", "_PATIENCE"):
            patch.setattr(redis_connections, name, 60.0)
        for module in (sqlite_file, sqlite_transactions):
            patch.setattr(module, "PATIENCE", 60.0)
        yield


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def doomed_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One that nobody else needs."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
async def sqlite_place(tmp_path: Path) -> AsyncIterator[InFile]:
    place = InFile(tmp_path / "sessions.db")
    yield place
    await place.close()


@pytest.fixture
async def redis_place(doomed_redis: RedisServer) -> AsyncIterator[InRedis]:
    """In the one that nobody else needs."""
    place = InRedis(doomed_redis.url)
    yield place
    await place.close()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    place = place_of(request.param, request)
    yield place
    await place.close()


@pytest.fixture(params=["sqlite", "redis"])
async def shared_place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    place = place_of(request.param, request)
    yield place
    await place.close()


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.ask("FLUSHALL")
        return InRedis(server.url)
    return InFile(request.getfixturevalue("tmp_path") / "sessions.db") if kind == "sqlite" else Place()
