"""`charloom serve --check`: every mistake is told, and nothing is changed."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.engine.sessions.stores.open_store import look_at_store
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.server import open_runtime
from tests.authority import Authority
from tests.ports import free_port
from tests.unit.engine.redis_server import RedisServer
from tests.unit.engine.stores import Place, made

Checked = tuple[int, dict[str, str], dict[str, str]]
Check = Callable[..., Checked]


@pytest.fixture
def check(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Check:
    """The exit status, what was good and what was wrong, by what was looked at."""

    def run(*arguments: str | Path, paths: Sequence[Path] = (bundle.path,)) -> Checked:
        given = [*paths, "--port", "0", *arguments]
        status = main(["serve", "--check", *map(str, given)])
        found: dict[str, dict[str, str]] = {"ok": {}, "WRONG": {}}
        for line in capsys.readouterr().out.splitlines():
            state, _, rest = line.partition(" ")
            if state in found:
                what, _, said = rest.strip().partition(": ")
                found[state][what] = "\n".join(filter(None, (found[state].get(what), said)))
        return status, found["ok"], found["WRONG"]

    return run


@pytest.fixture
def unchanged(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it when all files are there: at the end they are as they were, and no other is."""

    def state() -> dict[Path, tuple[bytes, int]]:
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}

    before: list[dict[Path, tuple[bytes, int]]] = []
    yield lambda: before.append(state())
    assert state() == before[0]


def test_settings_that_are_good_are_told_so_and_nothing_changes(
    check: Check, bundle: Bundle, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    chain, key = Authority(tmp_path).issue("server", "localhost")
    main(["keys", "create", "--tenant", "shop", "--file", str(tmp_path / "keys.json")])
    sealing = tmp_path / "sealing"
    sealing.write_bytes(base64.b64encode(os.urandom(32)))
    sealing.chmod(0o600)
    unchanged()
    status, good, wrong = check(
        *("--tls-cert", chain, "--tls-key", key, "--keys", tmp_path / "keys.json", "--sealing-keys", sealing),
        *("--store", f"sqlite:{tmp_path}/sessions.db", "--metrics-port", "0", "--host", "0.0.0.0"),
        *("--audit-log", tmp_path / "audit.jsonl"),
    )
    assert (status, wrong) == (0, {})
    assert good["--audit-log"] == str(tmp_path / "audit.jsonl")
    assert "small, 2 x 48 lstm, onnx-int8 on cpu" in good[f"bundle {bundle.path}"]
    assert "valid until" in good["certificate"]
    assert good["--store"] == f"{tmp_path}/sessions.db, which will be made"
    assert {"settings", "threads", "memory", "--keys", "--sealing-keys", "--host", "--metrics-host"} <= good.keys()


def test_every_mistake_is_told_at_once(check: Check, tmp_path: Path, unchanged: Callable[[], None]) -> None:
    (tmp_path / "text").write_text("no database, no key, and longer than the header of a database: " + "x" * 100)
    unchanged()
    text = tmp_path / "text"
    status, _, wrong = check(
        *("--tls-cert", text, "--tls-key", "/no-key", "--keys", "/no-keys", "--sealing-keys", text),
        *("--trusted-keys", text, "--store", f"sqlite:{text}", "--host", "203.0.113.1", "--metrics-port", "0"),
        *("--metrics-host", "203.0.113.2", "--http-port", "0", "--http-host", "203.0.113.3"),
        *("--model-folder", text, "--audit-log", tmp_path, "--insecure"),
        paths=[Path("/nowhere")],
    )
    assert status == 1
    parts = ("bundle /nowhere", "--trusted-keys", "certificate", "--keys", "--sealing-keys")
    parts += ("--model-folder", "--audit-log", "--store", "--host", "--http-host", "--metrics-host")
    assert wrong.keys() == set(parts)
    assert "there is no /nowhere" in wrong["bundle /nowhere"]
    assert "cannot read /no-key" in wrong["certificate"]
    assert "charloom keys create makes it" in wrong["--keys"]
    assert "is not a database; name another file" in wrong["--store"]


def test_trusted_keys_that_cannot_be_read_are_told_once(check: Check, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "models" / "small" / "1")
    status, _, wrong = check(
        *("--model-folder", tmp_path / "models", "--trusted-keys", tmp_path / "none.pem"),
        paths=[],
    )
    assert status == 1
    assert wrong.keys() == {"--trusted-keys"}
    assert "cannot read" in wrong["--trusted-keys"]


def test_all_mistakes_of_the_settings_themselves_are_told(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_MAX_ROWS", "none")
    status, _, wrong = check("--host", "0.0.0.0", "--device", "tpu", "--jwt-keys", "x")
    assert (status, wrong.keys()) == (1, {"settings"})
    told = wrong["settings"].splitlines()
    assert len(told) == 4
    for part in ("--max-rows none", "--device tpu", "--jwt-issuer and --jwt-audience", "--host 0.0.0.0"):
        assert any(part in line for line in told)


def test_settings_that_are_wrong_hide_no_other_mistake(check: Check, bundle: Bundle, tmp_path: Path) -> None:
    status, good, wrong = check(
        *("--host", "0.0.0.0", "--store", f"sqlite:{tmp_path}/none/x.db", "--processes", "2", "--max-rows", "0"),
        *("--keys", tmp_path / "nokeys.json", "--tls-client-ca", tmp_path / "ca.pem"),
    )
    assert (status, wrong.keys()) == (1, {"settings", "--store", "--keys"})
    assert len(wrong["settings"].splitlines()) == 3
    assert "there is no file" in wrong["--keys"]
    assert {f"bundle {bundle.path}", "--host"} <= good.keys()


def test_what_would_be_open_to_strangers_is_told(check: Check) -> None:
    status, good, _ = check("--host", "0.0.0.0", "--insecure")
    assert status == 0
    assert "nothing is encrypted and nobody is asked who calls" in good["settings"]


def test_bundles_are_opened_and_tried(check: Check, copied: Callable[[], Path], bundle: Bundle) -> None:
    half = copied()
    file = half / "decoder.int8.onnx"
    file.write_bytes(file.read_bytes()[:-1000])
    status, good, wrong = check(paths=[half, bundle.path, bundle.path])
    assert status == 1
    assert wrong[f"bundle {half}"].startswith("the file decoder.int8.onnx was changed")
    assert "two bundles are named 'small'" in wrong["names of models"]
    assert f"bundle {bundle.path}" in good


def test_decoders_that_leave_no_memory_are_told(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_runtime, "memory_in_use", lambda: 2**29)
    status, _, wrong = check("--memory-bytes", str(2**28))
    assert status == 1
    assert "raise --memory-bytes" in wrong["memory"]


def test_weights_of_names_that_no_model_has_are_told(check: Check) -> None:
    status, good, _ = check("--model-weights", "smal=3")
    assert status == 0
    assert good["--model-weights"].startswith("no model is named 'smal'")


async def test_a_database_in_use_stays_as_it_is(tmp_path: Path) -> None:
    """Its log is not written to it, and none is made beside it."""
    path, place = tmp_path / "sessions.db", Place()
    store = SqliteStore(path, 10, place.now)
    await store.add([made(place, "a")])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert await look_at_store(f"sqlite:{path}") == str(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    await store.close()
    assert await look_at_store(f"sqlite:{path}") == str(path)
    assert [file.name for file in tmp_path.iterdir() if "wal" in file.name] == []


def test_redis_is_asked(check: Check, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    try:
        status, good, _ = check("--store", redis.url)
        assert (status, good["--store"]) == (0, "Redis, which answers")
    finally:
        redis.kill()
    status, _, wrong = check("--store", f"redis://user:secret@127.0.0.1:{free_port()}/0")
    assert status == 1
    assert "secret" not in wrong["--store"]
