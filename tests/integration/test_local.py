"""Clients that have a server of their own, in this process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import charloom.local
from charloom.client import Client, InvalidArgument
from charloom.models import BUNDLED_MODEL
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("charloom")}


def test_a_local_client_gives_the_text_that_a_server_gives() -> None:
    settings = ServerSettings(grace_seconds=0)
    models = open_models([BUNDLED_MODEL], settings)
    with running_server(models, settings) as server, Client(f"127.0.0.1:{server.port}") as client:
        expected = client.complete("ROMEO:\n", max_tokens=50, seed=3).text
    with charloom.local.open("shakespeare") as client:
        assert client.complete("ROMEO:\n", max_tokens=50, seed=3).text == expected
        with client.session(seed=3) as session, session.generate("ROMEO:\n", max_tokens=50) as stream:
            assert "".join(stream) == expected
        with pytest.raises(InvalidArgument, match="max_tokens"):
            client.complete("a", max_tokens=10**9)


def test_asyncio() -> None:
    async def text() -> str:
        async with await charloom.local.open_async() as client:
            return (await client.complete("ROMEO:\n", max_tokens=50, seed=3)).text

    with charloom.local.open() as client:
        assert asyncio.run(text()) == client.complete("ROMEO:\n", max_tokens=50, seed=3).text


def test_closing_ends_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = threads()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = charloom.local.open()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    client.close()
    client.close()
    assert list(tmp_path.iterdir()) == []
    assert threads() <= before


def test_sessions_outlive_it_in_a_store(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'mine.db'}"
    with charloom.local.open(store=store) as client:
        client.session(id="mine", seed=1, keep=True).feed("ROMEO:")
    with charloom.local.open(store=store) as client:
        assert client.open_session("mine").info.position == 6


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARLOOM_KEYS", str(tmp_path / "none"))
    monkeypatch.setenv("CHARLOOM_MAX_TOKENS", "1")
    with charloom.local.open() as client:
        assert len(client.complete("a", max_tokens=5).text) == 5


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="charloom export"):
        charloom.local.open(tmp_path / "none")
    with pytest.raises(ValueError, match="max_rows"):
        charloom.local.open(max_rows=0)
    with pytest.raises(ValueError, match=r"^no_such_setting: there is no such setting; charloom serve"):
        charloom.local.open(no_such_setting=1)
    for name, value in (("host", "0.0.0.0"), ("port", 50051), ("processes", 2)):
        with pytest.raises(ValueError, match=f"{name}: this server is for this program alone"):
            charloom.local.open(**{name: value})


def test_a_program_that_does_not_close_it_ends_all_the_same() -> None:
    program = "import charloom.local; print(charloom.local.open().complete('a', max_tokens=5).text)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "charloom.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CHARLOOM_TARGET": "127.0.0.1:1"},
    )


def test_commands_without_a_server() -> None:
    with charloom.local.open() as client:
        expected = client.complete("ROMEO:\n", max_tokens=20, seed=3).text
    done = command("generate", "--bundle", "shakespeare", "ROMEO:\n", "--max-tokens", "20", "--seed", "3")
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    assert "bits per character" in command("score", "--bundle", str(BUNDLED_MODEL), "ROMEO:\n").stdout


def test_commands_say_what_they_cannot_do_without_a_server(tmp_path: Path) -> None:
    done = command("generate", "--bundle", str(tmp_path / "none"), "a")
    assert done.returncode == 1
    assert "there is no" in done.stderr
    done = command("generate", "--bundle", "shakespeare", "--session", "mine", "a")
    assert done.returncode == 1
    assert "leave out --bundle" in done.stderr
