"""What SIGHUP brings, and a folder that does not answer."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from charloom.bundle import Bundle, read_bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import shown
from charloom.engine.model_errors import ModelUnusable
from charloom.server import model_changes, model_upkeep
from charloom.server.audit import AuditLog
from charloom.server.identity.signatures import new_signing_key, public_pem, sign
from charloom.server.model_changes import ModelChanges
from charloom.server.model_folder import ModelFolder
from charloom.server.model_upkeep import ModelUpkeep
from charloom.server.open_runtime import model_folder
from charloom.server.settings import ServerSettings
from tests.unit.bundle.bundle_files import change_manifest
from tests.waiting import eventually_async


def version(bundle: Bundle, folder: Path, name: str, number: str) -> Path:
    path = shutil.copytree(bundle.path, folder / name / number)
    change_manifest(path, lambda manifest: manifest.update(name=name, training={"version": number}))
    return path


async def test_a_signal_loads_all_again_and_the_folder_anew_and_the_audit_log_has_it_first(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    first, hidden = version(bundle, folder, "small", "1"), version(bundle, folder, "other", ".1")
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=folder), ModelFolder(folder, read_bundle))
    audit_log = tmp_path / "audit.jsonl"
    audit = AuditLog(audit_log)
    upkeep = ModelUpkeep(engine, changes, audit)
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)

    def told() -> list[tuple[str, str, str, str]]:
        lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
        return sorted((line["act"], line["on"], line["by"], line["result"]) for line in lines)

    await changes.load("other/.1")
    await changes.unload("small")
    second = version(bundle, folder, "small", "2")
    upkeep.reload_all()
    await eventually_async(lambda: len(told()) == 4)
    assert told() == sorted(
        ("load-model", f"bundle {shown(str(path))}", "SIGHUP", result)
        for path in (hidden, second)
        for result in ("begun", "done")
    )
    # Also what a request has unloaded serves again.
    assert sorted((model.name, model.bundle.path) for model in engine.models) == [("other", hidden), ("small", second)]
    upkeep.stop()
    changes.stop()
    await upkeep.stopped(30)
    await engine.drain(0)
    audit.close()


async def test_a_folder_that_does_not_answer_is_told_once_and_holds_up_nothing_else(
    bundle: Bundle,
    decoder: Decoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(model_upkeep, "SLOW_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(model_changes, "FOLDER_SECONDS", 0.05)
    first = version(bundle, tmp_path, "small", "1")
    folder = ModelFolder(tmp_path, read_bundle)
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), folder)
    upkeep = ModelUpkeep(engine, changes, AuditLog())
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    answers, changed = threading.Event(), folder.changed

    def hangs() -> Any:
        assert answers.wait(60)
        return changed()

    monkeypatch.setattr(folder, "changed", hangs)
    watching = asyncio.create_task(upkeep.watch())
    said = "the folder of models does not answer"
    await eventually_async(lambda: said in caplog.text)
    hidden = version(bundle, tmp_path, "other", ".1")
    await changes.load("other/.1")
    with pytest.raises(ModelUnusable, match="does not answer; is its disk there"):
        await changes.reload("small")
    upkeep.reload_all()
    reloaded = version(bundle, tmp_path, "other", ".2")
    shutil.rmtree(hidden)
    reloaded.rename(hidden)
    upkeep.reload_all()
    digest = read_bundle(hidden).manifest.digest
    await eventually_async(lambda: digest in {model.digest for model in engine.models})
    assert caplog.text.count(said) == 1
    answers.set()
    await eventually_async(lambda: "the folder of models answers again" in caplog.text)
    watching.cancel()
    upkeep.stop()
    changes.stop()
    await upkeep.stopped(30)
    await engine.drain(0)


async def test_what_could_not_be_loaded_for_want_of_trusted_keys_is_once_they_are_back(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(model_upkeep, "AUDIT_SECONDS", 0.01)
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    key, trusted, models = new_signing_key(tmp_path / "key.pem"), tmp_path / "trusted.pem", tmp_path / "models"
    first = version(bundle, models, "small", "1")
    settings = ServerSettings(model_folder=models, trusted_keys=trusted)
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, settings, model_folder(settings))
    upkeep = ModelUpkeep(engine, changes, AuditLog())
    with pytest.raises(ModelUnusable, match="cannot read"):
        await changes.reload("small")
    upkeep.reload_all()
    await eventually_async(lambda: "model small was not loaded: nothing has changed: cannot read" in caplog.text)
    watching = asyncio.create_task(upkeep.watch())
    for name, number in (("small", "2"), ("other", "1")):
        hidden = version(bundle, models, name, f".{number}")
        sign(read_bundle(hidden), key)
        hidden.rename(hidden.with_name(number))
    await eventually_async(lambda: "waits until signatures can be checked" in caplog.text)
    trusted.write_bytes(public_pem(key))
    await eventually_async(lambda: sorted(changes.paths) == [str(models / "other" / "1"), str(models / "small" / "2")])
    watching.cancel()
    upkeep.stop()
    changes.stop()
    await upkeep.stopped(30)
    await engine.drain(0)


async def test_once_stopped_it_begins_no_load_while_the_server_drains(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.01)
    first = version(bundle, tmp_path, "small", "1")
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
    upkeep = ModelUpkeep(engine, changes, AuditLog())
    rounds, let_go = list[int](), engine.let_go_of_models

    async def counted() -> Any:
        rounds.append(1)
        return await let_go()

    monkeypatch.setattr(engine, "let_go_of_models", counted)
    watching = asyncio.create_task(upkeep.watch())
    await eventually_async(lambda: len(rounds) > 2)
    upkeep.stop()
    changes.stop()
    version(bundle, tmp_path, "small", ".2").rename(tmp_path / "small" / "2")
    rounds.clear()
    await eventually_async(lambda: len(rounds) > 10)
    upkeep.reload_all()
    await eventually_async(lambda: not upkeep._tasks)
    assert "was not loaded" not in caplog.text
    watching.cancel()
    await engine.drain(0)


async def test_new_models_of_the_folder_come_in_its_order_whichever_load_ends_first(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = version(bundle, tmp_path, "small", "1")
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
    upkeep = ModelUpkeep(engine, changes, AuditLog())
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    load_at = changes.load_at

    async def slow(path: Path) -> Any:
        if path.parent.name in ("b", "d"):
            await eventually_async(lambda: path.parent.name.translate(after) in {model.name for model in engine.models})
        return await load_at(path)

    after = str.maketrans("bd", "ce")
    monkeypatch.setattr(changes, "load_at", slow)
    for name in ("b", "c"):
        version(bundle, tmp_path, name, "1")
    for _ in range(2):  # it is to have stayed the same from look to look
        await upkeep._load_changed()
    await eventually_async(lambda: not upkeep._loading)
    assert [model.name for model in engine.models] == ["small", "b", "c"]
    for name in ("d", "e"):
        version(bundle, tmp_path, name, "1")
    upkeep.reload_all()
    await eventually_async(lambda: not upkeep._tasks)
    assert [model.name for model in engine.models] == ["small", "b", "c", "d", "e"]
    upkeep.stop()
    changes.stop()
    await engine.drain(0)


async def test_another_process_is_told_what_serves_and_not_what_is_chosen_and_still_being_loaded(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.01)
    older, _ = version(bundle, tmp_path, "small", "1"), version(bundle, tmp_path, "small", "2")
    folder = ModelFolder(tmp_path, read_bundle)
    (newest,) = folder.first()
    engine = Engine([(read_bundle(newest), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), folder)
    upkeep = ModelUpkeep(engine, changes, AuditLog())
    opening, go_on = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Decoder:
        opening.set()
        assert go_on.wait(60)
        return decoder

    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    await changes.load("small/1")
    serves = await upkeep.serves()
    digests = {str(older): read_bundle(older).manifest.digest}
    expected = {"bundles": [str(older)], "digests": digests, "names": ["small"]}
    assert serves == {**expected, "chosen": {"small": folder.chosen["small"]}}
    monkeypatch.setattr(model_changes, "open_decoder", slow)
    third = version(bundle, tmp_path, "small", ".3").rename(tmp_path / "small" / "3")
    watching = asyncio.create_task(upkeep.watch())
    await eventually_async(opening.is_set)
    assert await upkeep.serves() == {**expected, "chosen": {}}
    go_on.set()
    await eventually_async(lambda: changes.paths == [str(third)])
    await eventually_async(lambda: not upkeep._loading)
    assert (await upkeep.serves())["chosen"].keys() == {"small"}
    watching.cancel()
    upkeep.stop()
    changes.stop()
    await upkeep.stopped(30)
    await engine.drain(0)
