"""What a server leaves as it found it when its start breaks off, and what it sets aside when it does not."""

from __future__ import annotations

import gc
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
