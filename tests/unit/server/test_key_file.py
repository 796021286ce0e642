"""The file of keys: what is kept, what is refused, how it is changed."""

from __future__ import annotations

import json
import multiprocessing
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from charloom.server.identity.key_file import (
    Key,
    KeyFile,
    KeyFileEditor,
    KeyFileProblem,
    TenantLimits,
    hashed,
    made,
    read_key_file,
)
from charloom.server.identity.scopes import Scope

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
ENTRY = {"id": "00000001", "sha256": "0" * 64, "tenant": "shop", "scopes": ["read"], "created": "2026-01-01T00:00:00Z"}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    return path


def test_a_key_has_a_prefix_and_256_random_bits_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    text, key = made("shop", [Scope.READ], NOW, None)
    other, _ = made("shop", [Scope.READ], NOW, None)
    assert re.fullmatch(r"charloom_[0-9a-f]{8}_[0-9a-f]{64}", text)
    assert text != other
    path = tmp_path / "keys.json"
    with KeyFileEditor(path).editing(create=True) as file:
        file.content = KeyFile(keys=(key,))
    assert text.rpartition("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key_file(path).keys == (key,)
    assert hashed(text) not in repr(key)


def test_only_the_whole_key_is_known() -> None:
    text, key = made("shop", [Scope.READ], NOW, None)
    file = KeyFile(keys=(key,))
    assert file.key(text) == key
    for wrong in (
        "",
        "charloom",
        text[:-1],
        text + "0",
        text.upper(),
        text.replace("charloom_", ""),
        "é" * 1000,
        "\ud800",
    ):
        assert file.key(wrong) is None, wrong


def test_the_states_of_a_key() -> None:
    _, key = made("shop", [Scope.READ], NOW, NOW + timedelta(days=1))
    assert key.state(NOW) == "active"
    assert key.state(NOW + timedelta(days=1)) == "expired"
    assert key.model_copy(update={"revoked": NOW}).state(NOW) == "revoked"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "keys: "),
        ({"version": 2}, "version: Input should be 1"),
        ({"keys": [{**ENTRY, "scopes": ["everything"]}]}, "keys.0.scopes.0: Input should be 'read'"),
        ({"keys": [{**ENTRY, "scopes": []}]}, "keys.0.scopes: "),
        ({"limits": [{"tenant": "shop", "sessions": 0}]}, "limits.0.sessions: "),
        ({"limits": [{"tenant": "shop", "sessions": 1.0}]}, "limits.0.sessions: "),
        ({"limits": [{"tenant": "shop", "rows": 1}]}, "limits.0.rows: "),
        ({"limits": [{"tenant": "shop"}] * 2}, "two sets of limits of the tenant shop"),
        ({"keys": [{**ENTRY, "tenant": "a/b"}]}, "keys.0.tenant: 'a/b' is not allowed"),
        ({"keys": [{**ENTRY, "sha256": "secret"}]}, "keys.0.sha256: "),
        ({"keys": [{**ENTRY, "created": "2026-01-01T00:00:00"}]}, "keys.0.created: Input should have timezone info"),
        ({"keys": [{**ENTRY, "note": ""}]}, "keys.0.note: Extra inputs are not permitted"),
        ({"keys": [ENTRY, ENTRY]}, "there are two keys with the id 00000001; remove one"),
        ({"certificates": [{"name": "a", "tenant": "t", "scopes": ["read"]}] * 2}, "two certificates with the name a"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, content: Any, said: str) -> None:
    path = written(tmp_path / "keys.json", content)
    with pytest.raises(KeyFileProblem) as problem:
        read_key_file(path)
    if content != "[]":
        assert said in str(problem.value)
    assert str(path) in str(problem.value)
    assert "secret" not in str(problem.value)


def test_names_are_not_compared_each_with_all_others() -> None:
    """Keys may be thousands, and the file is read on the event loop when it changes."""
    compared = 0

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    _, key = made("shop", [Scope.READ], NOW, None)
    keys = tuple(key.model_copy(update={"id": Name(f"{number:08x}")}) for number in range(500))
    assert len(KeyFile(keys=keys).keys) == 500
    assert compared < 5000


def test_a_file_that_is_missing_is_no_file_or_readable_by_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileProblem, match="charloom keys create makes it"):
        read_key_file(tmp_path / "none.json")
    with pytest.raises(KeyFileProblem, match="is no file"):
        read_key_file(tmp_path)
    path = written(tmp_path / "keys.json", {})
    path.chmod(0o604)
    with pytest.raises(KeyFileProblem, match="chmod 600"):
        read_key_file(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (Path("/proc/self/mem"), "Input/output error"),  # a file that even root cannot read from its beginning
        (Path("x" * 300), "File name too long"),  # a path that cannot be looked up, as one in a forbidden folder
    ],
)
def test_a_file_that_cannot_be_read_is_named(path: Path, said: str) -> None:
    with pytest.raises(KeyFileProblem, match=f"cannot read {path}: {said}"):
        read_key_file(path)


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "keys.json", {"keys": [ENTRY]})
    before = path.read_text()

    def change() -> None:
        with KeyFileEditor(path).editing() as file:
            file.content = KeyFile()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_a_group_that_may_read_the_file_goes_on_to(tmp_path: Path) -> None:
    path = written(tmp_path / "keys.json", {"keys": [ENTRY]})
    path.chmod(0o640)
    with KeyFileEditor(path).editing() as file:
        file.content = KeyFile()
    assert path.stat().st_mode & 0o777 == 0o640


def add(path: Path) -> None:
    for _ in range(10):
        _, key = made("shop", [Scope.READ], NOW, None)
        with KeyFileEditor(path).editing(create=True) as file:
            keys: tuple[Key, ...] = (*file.content.keys, key)
            file.content = file.content.model_copy(update={"keys": keys})


def test_processes_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    processes = [multiprocessing.get_context("spawn").Process(target=add, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(read_key_file(path).keys) == 30


def test_limits_are_kept_and_a_file_without_any_is_as_version_0_1_reads_it(tmp_path: Path) -> None:
    path = written(tmp_path / "keys.json", {"keys": [ENTRY]})
    limits = TenantLimits(tenant="shop", sessions=3)
    with KeyFileEditor(path).editing() as file:
        file.content = file.content.model_copy(update={"limits": (limits,)})
    assert read_key_file(path).limits_of("shop") == limits
    assert read_key_file(path).limits_of("other") is None
    with KeyFileEditor(path).editing() as file:
        file.content = file.content.model_copy(update={"limits": ()})
    assert set(json.loads(path.read_text())) == {"version", "keys", "certificates"}
