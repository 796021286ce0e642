"""Changes of models that something breaks off, and bundles that are found elsewhere."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charloom.bundle import TRANSCRIPT, Bundle, BundleError, read_bundle
from charloom.bundle.chat import Turn
from charloom.engine.calls.inspection import InspectionRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import Draining, EngineError
from charloom.engine.sessions.session import Key
from charloom.server import model_changes
from charloom.server.model_changes import ModelChanges, Stage, open_model
from charloom.server.model_folder import ModelFolder
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from tests.unit.bundle.bundle_files import change_manifest


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_load_that_the_end_of_the_server_breaks_off_is_told_so(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    path = shutil.copytree(bundle.path, tmp_path / "small" / "2")
    change_manifest(path, lambda manifest: manifest.update(training={"version": "2"}))
    engine = Engine([(bundle, decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
    go_on = threading.Event()

    def slow(*arguments: Any, **more: Any) -> Decoder:
        assert go_on.wait(60)
        return decoder

    monkeypatch.setattr(model_changes, "open_decoder", slow)
    loading = asyncio.create_task(changes.load("small/2"))
    while [load.stage for load in changes.loads] != [Stage.OPENING]:
        await asyncio.sleep(0.01)
    if stopped:
        changes.stop()
    else:
        loading.cancel()  # whoever asked has gone away
    with pytest.raises(Draining if stopped else asyncio.CancelledError):
        await loading
    go_on.set()
    if not stopped:
        while changes.loads:
            await asyncio.sleep(0.01)
    assert (engine.models[0].digest != bundle.manifest.digest) is not stopped
    changes.stop()
    await engine.drain(0)


async def test_a_bundle_that_is_loaded_from_elsewhere_is_there_from_then_on(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(number: str) -> Path:
        path = shutil.copytree(bundle.path, tmp_path / "small" / number)
        change_manifest(path, lambda manifest: manifest.update(training={"version": number}))
        return path

    first, second = version("1"), version(".2")
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    engine = Engine([(read_bundle(first), decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
    assert (await changes.load("small/.2")).changed
    second = second.rename(tmp_path / "small" / "2")
    assert not (await changes.reload("small")).changed
    assert changes.paths == [str(second)]
    text = [
        token async for token in (await engine.inspections.inspect(InspectionRequest(Key("", ""), text="a"))).tokens
    ]
    assert len(text) == 1
    first = first.rename(tmp_path / "small" / ".1")
    assert (await changes.load("small/.1")).changed  # it drained, and serves again
    assert changes.paths == [str(first)]
    changes.stop()
    await engine.drain(0)


async def test_a_model_that_is_loaded_again_has_the_place_that_it_had(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)

    def version(name: str, number: str) -> tuple[Bundle, Decoder]:
        path = shutil.copytree(bundle.path, tmp_path / name / number)
        change_manifest(path, lambda manifest: manifest.update(name=name, training={"version": number}))
        return read_bundle(path), decoder

    first, second = version("first", "1"), version("second", "1")
    version("first", "2"), version("third", "1")
    engine, late = Engine([first, second]), Engine([second])
    late.put_first(engine.order)  # one of several processes, that was started while "first" was unloaded
    for one in (engine, late):
        changes = ModelChanges(one, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
        await changes.load("third/1")
        for path in ("first/1", "first/1", "first/2"):  # of which the second drains and serves again
            if one.models[0].name == "first":
                await changes.unload("first")
                assert one.model("").name == "second"
            await changes.load(path)
            assert [model.name for model in one.models] == ["first", "second", "third"]
            assert one.model("").name == "first"
        changes.stop()
        await one.drain(0)


async def test_the_log_says_what_was_asked_and_is_alarmed_only_by_what_an_operator_has_to_mend(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = Engine([(bundle, decoder)])
    changes = ModelChanges(engine, ServerSettings(model_folder=tmp_path), ModelFolder(tmp_path, read_bundle))
    (tmp_path / "none").mkdir()
    for change in (changes.unload("small"), changes.unload("big"), changes.load("none")):
        with pytest.raises(EngineError):
            await change
    found = [(record.levelname, record.getMessage().partition(": ")[0]) for record in caplog.records]
    assert found == [
        ("INFO", "unload of 'small' was not done"),
        ("INFO", "unload of 'big' was not done"),
        ("ERROR", "load of 'none' was not done"),
    ]
    changes.stop()
    await engine.drain(0)


@pytest.mark.parametrize("before", ["The ", "§"])
def test_the_log_tells_of_a_chat_template_that_the_model_cannot_read(
    before: str, bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    chat = TRANSCRIPT.model_copy(update={"system": Turn(before="", after=""), "user": Turn(before=before, after="")})
    chat = chat.model_copy(update={"assistant": Turn(before="", after="")})
    changed = replace(bundle, manifest=bundle.manifest.model_copy(update={"chat": chat}))
    assert open_model(changed, ServerSettings()) is decoder
    told = [record.message for record in caplog.records]
    assert len(told) == (before == "§")
    assert all(
        "model small cannot read its chat template, and refuses chats: user.before is '§'" in one for one in told
    )


def test_a_process_opens_what_the_others_serve_and_no_files_that_came_in_their_place(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: decoder)
    path = shutil.copytree(bundle.path, tmp_path / "small")
    served = {str(path): bundle.manifest.digest}
    assert open_models([path], ServerSettings(), served)
    change_manifest(path, lambda manifest: manifest.update(training={"version": "2"}))
    with pytest.raises(BundleError, match=r"was replaced .* charloom models reload small; or put back") as refused:
        open_models([path], ServerSettings(), served)
    assert str(path) in str(refused.value)
    assert open_models([path], ServerSettings(), {})
