"""A folder of models: what is looked at again, and when; one that goes away and comes back."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charloom.bundle import read_bundle
from charloom.server.identity.signatures import SigningProblem
from charloom.server.model_folder import ModelFolder


def test_a_folder_that_is_gone_is_told_once_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = ModelFolder(tmp_path / "models", read_bundle)
    for _ in range(2):
        for _ in range(3):
            assert folder.changed() == []
        folder.path.mkdir()
        for _ in range(3):
            assert folder.changed() == []
        folder.path.rmdir()
    told = [record.getMessage().removeprefix(f"{folder.path} ").partition(",")[0] for record in caplog.records]
    assert told == 2 * ["cannot be read", "can be read again"]


def named(path: Path) -> Any:
    """What is read of a version here: only its name counts."""
    return SimpleNamespace(manifest=SimpleNamespace(name=path.parent.name))


def test_what_another_process_has_chosen_is_looked_at_again_once_it_changes(tmp_path: Path) -> None:
    first, second, third = (tmp_path / "small" / number for number in "123")
    for version in (first, second):
        version.mkdir(parents=True)
        (version / "manifest.json").touch()
    other = ModelFolder(tmp_path, named)
    assert other.first() == [second]
    folder = ModelFolder(tmp_path, named)
    folder.remember([first], other.chosen)  # a request has loaded the older one
    assert [folder.changed() for _ in range(3)] == [[], [], []]
    third.mkdir()
    (third / "manifest.json").touch()
    assert [folder.changed() for _ in range(3)] == [[], [third], []]
    alone = ModelFolder(tmp_path, named)
    alone.remember([first], {})
    assert [alone.changed() for _ in range(2)] == [[third], []]


def test_what_has_changed_waits_for_trusted_keys_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problem: list[str] = []

    def read(path: Path) -> Any:
        if problem and path.parent.name == problem[0]:
            raise SigningProblem("cannot read trusted.pem: No such file or directory")
        return named(path)

    def added(name: str, number: str) -> Path:
        path = tmp_path / name / number
        path.mkdir(parents=True)
        (path / "manifest.json").touch()
        return path

    folder = ModelFolder(tmp_path, read)
    assert folder.first() == []
    problem.append("other")
    other, small = added("other", "1"), added("small", "1")
    assert [folder.changed() for _ in range(4)] == [[], [small], [], []]
    for look in (folder.first, lambda: folder.newest("other")):
        with pytest.raises(SigningProblem):
            look()
    assert [record.getMessage() for record in caplog.records] == [
        f"what has changed in {tmp_path} waits until signatures can be checked: "
        "cannot read trusted.pem: No such file or directory"
    ]
    problem.clear()
    assert [folder.changed() for _ in range(2)] == [[other], []]


def test_a_version_that_could_not_be_read_is_looked_at_again_with_other_permissions(tmp_path: Path) -> None:
    def read(path: Path) -> Any:
        if not (path / "manifest.json").stat().st_mode & 0o004:
            raise PermissionError("Permission denied")
        return named(path)

    version = tmp_path / "small" / "1"
    version.mkdir(parents=True)
    (version / "manifest.json").touch(0o600)
    folder = ModelFolder(tmp_path, read)
    assert [folder.changed() for _ in range(3)] == [[], [], []]
    (version / "manifest.json").chmod(0o644)
    assert [folder.changed() for _ in range(3)] == [[], [version], []]
