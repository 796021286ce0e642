"""What a server leaves as it found it when its start breaks off, and what it sets aside when it does not."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.sessions.records import PLAIN
from charloom.engine.sessions.stores.memory_file import MemoryFileStore, read_sessions
from charloom.server import app
from charloom.server.app import Server, open_server, serve
from charloom.server.settings import ServerSettings
from tests.unit.engine.stores import Place, made


@pytest.fixture
async def kept(tmp_path: Path) -> Path:
    """A file with a session."""
    store = MemoryFileStore(tmp_path / "sessions", 10, PLAIN)
    await store.add([made(Place(), "a", ticks=3600)])
    await store.close()
    return tmp_path / "sessions"


def ids(kept: Path) -> list[str]:
    return [one.session.id for one in read_sessions(kept, PLAIN)]


async def test_one_that_cannot_be_made_has_written_again_the_sessions_that_it_took_up(
    bundle: Bundle, decoder: Decoder, kept: Path
) -> None:
    settings = ServerSettings(store=f"memory:{kept}", keys=kept.with_name("no keys"))
    with pytest.raises(ValueError, match="charloom keys create makes it"):
        await open_server([(bundle, decoder)], settings)
    assert ids(kept) == ["a"]


async def test_one_that_breaks_off_once_it_listens_has_written_them_too(
    bundle: Bundle, decoder: Decoder, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("call_when_asked", "ignore_all"):  # the signals are those of the process that runs the tests
        monkeypatch.setattr(app, name, lambda *asked: None)

    def nobody_reads(server: Server) -> None:
        assert not kept.exists()
        raise BrokenPipeError

    settings = ServerSettings(port=0, grace_seconds=0, store=f"memory:{kept}")
    with pytest.raises(BrokenPipeError):
        await serve([(bundle, decoder)], settings, nobody_reads)
    assert ids(kept) == ["a"]


async def test_one_that_is_asked_to_stop_while_its_store_does_not_answer_waits_no_more(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[bool] = []
    monkeypatch.setattr(app, "ignore_all", lambda: ignored.append(True))

    async def never(*_: object) -> Server:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(app, "open_server", never)

    def orders(stop: Callable[[], object], reload: Callable[[], object] = lambda: None) -> None:
        for asked in (reload, stop, stop):
            asyncio.get_running_loop().call_soon(asked)

    await asyncio.wait_for(serve([(bundle, decoder)], ServerSettings(port=0), not_ready, orders), 60)
    assert ignored


async def test_one_that_is_asked_to_stop_before_it_listens_has_written_again_what_it_took_up(
    bundle: Bundle, decoder: Decoder, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "ignore_all", lambda: None)
    given: list[Callable[[], object]] = []
    start = Server.start

    async def asked_meanwhile(server: Server) -> None:
        assert not kept.exists()
        given[0]()
        await start(server)

    monkeypatch.setattr(Server, "start", asked_meanwhile)
    settings = ServerSettings(host=f"unix:{kept.parent}/s", grace_seconds=0, store=f"memory:{kept}")
    await serve([(bundle, decoder)], settings, not_ready, lambda stop, *_: given.append(stop))
    assert ids(kept) == ["a"]
    assert not Path(f"{kept.parent}/s").exists()


def not_ready(server: Server) -> None:
    raise AssertionError("it takes calls")


async def test_what_is_there_at_the_start_is_none_of_the_garbage_collectors_business(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("call_when_asked", "ignore_all"):
        monkeypatch.setattr(app, name, lambda *asked: None)
    left: list[int] = []

    def ready(server: Server) -> None:
        left.append(len(gc.get_objects()))
        raise BrokenPipeError

    try:
        with pytest.raises(BrokenPipeError):
            await serve([(bundle, decoder)], ServerSettings(port=0, grace_seconds=0), ready)
        assert gc.get_freeze_count() > 10_000
        assert left[0] < 1000
    finally:
        gc.unfreeze()
