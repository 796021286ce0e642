"""A real server follows a folder of models."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charloom.bundle import Bundle
from charloom.client import (
    Client,
    ModelState,
)
from charloom.engine.errors import shown
from charloom.server import model_changes, model_upkeep
from charloom.server.app import Server
from charloom.server.identity.signatures import read_trusted_bundle
from charloom.server.model_folder import ModelFolder
from tests.integration.model_versions import Folder, states
from tests.waiting import eventually


def test_a_version_that_appears_serves_and_one_that_is_half_copied_does_not(
    folder: Folder, started: Callable[..., tuple[Server, Client]], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = started()
    expected = [("small", "1", ModelState.SERVING)]
    half = folder.path / "small" / "10"
    whole = folder.beside("10")
    half.mkdir()
    shutil.copy(whole / "manifest.json", half)
    with caplog.at_level(logging.WARNING):
        told = r"version 10 of model small is left alone until it is complete: .* is missing"
        eventually(lambda: re.search(told, caplog.text) is not None)
    assert states(client) == expected
    for file in whole.iterdir():
        shutil.copy(file, half)
    eventually(lambda: ("small", "10", ModelState.SERVING) in states(client))
    folder.add("9")  # older, as people count
    folder.add("1", "other")
    eventually(lambda: ("other", "1", ModelState.SERVING) in states(client))
    assert ("small", "10", ModelState.SERVING) in states(client)
    shutil.rmtree(half)
    eventually(lambda: ("small", "9", ModelState.SERVING) in states(client))


def test_the_folder_is_followed_also_after_a_look_that_failed(
    folder: Folder,
    started: Callable[..., tuple[Server, Client]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, client = started()
    changed, looks = ModelFolder.changed, list[int]()

    def fails_once(self: ModelFolder) -> list[Path]:
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("no threads left")
        return changed(self)

    monkeypatch.setattr(ModelFolder, "changed", fails_once)
    folder.add("2")
    eventually(lambda: ("small", "2", ModelState.SERVING) in states(client))
    assert "the models were not looked at" in caplog.text
    assert len(looks) > 1


def test_a_version_for_which_there_is_no_memory_serves_once_there_is(
    folder: Folder,
    started: Callable[..., tuple[Server, Client]],
    looks_again: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, client = started()
    budget = server.engine.budget
    most = budget.most
    monkeypatch.setattr(budget, "most", 2**20)
    folder.add("2")
    eventually(lambda: "model small was not loaded: model 'small' may need" in caplog.text)
    looks_again()
    assert caplog.text.count("was not loaded") == 1
    assert states(client) == [("small", "1", ModelState.SERVING)]
    monkeypatch.setattr(budget, "most", most)
    eventually(lambda: ("small", "2", ModelState.SERVING) in states(client))


def test_a_load_that_does_not_end_keeps_no_other_model_from_being_loaded(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = started()
    reading, go_on, read = threading.Event(), threading.Event(), read_trusted_bundle

    def hangs(path: Path, *more: Any) -> Bundle:
        if path == folder.path / "small" / "2":
            reading.set()
            assert go_on.wait(120)
        return read(path, *more)

    monkeypatch.setattr(model_changes, "read_trusted_bundle", hangs)
    folder.add("2")
    assert reading.wait(60)
    folder.add("3")  # of the same model: once that load has ended
    folder.add("1", "other")
    eventually(lambda: ("other", "1", ModelState.SERVING) in states(client))
    folder.add("2", "other")
    eventually(lambda: ("other", "2", ModelState.SERVING) in states(client))
    assert ("small", "1", ModelState.SERVING) in states(client)
    go_on.set()
    eventually(lambda: ("small", "3", ModelState.SERVING) in states(client))


def test_what_the_folder_brings_is_in_the_audit_log_first(
    folder: Folder,
    started: Callable[..., tuple[Server, Client]],
    looks_again: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_upkeep, "AUDIT_SECONDS", 0.1)
    audit_log = tmp_path / "audit.jsonl"
    _, client = started(audit_log=audit_log)

    def told() -> list[tuple[str, str, str, str]]:
        lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
        return [(line["act"], line["on"], line["by"], line["result"]) for line in lines]

    audit_log.rename(tmp_path / "old")
    audit_log.mkdir()
    second = folder.add("2")
    looks_again()
    assert states(client) == [("small", "1", ModelState.SERVING)]
    audit_log.rmdir()  # it can be written again
    eventually(lambda: ("small", "2", ModelState.SERVING) in states(client))
    of_all = ("load-model", f"bundle {shown(str(second))}", "model folder")
    eventually(lambda: told() == [(*of_all, "begun"), (*of_all, "done")])
