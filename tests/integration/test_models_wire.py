"""Models are loaded, replaced and unloaded while a real server serves."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.cli.main import main
from charloom.client import (
    Client,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ModelState,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unavailable,
)
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.errors import shown
from charloom.server import model_changes, model_upkeep
from charloom.server.app import Server
from charloom.server.identity.scopes import Scope, scope_of
from charloom.server.identity.signatures import new_signing_key, public_pem, sign
from charloom.server.model_folder import ModelFolder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import refused
from tests.unit.bundle.bundle_files import change_manifest, replace_file
from tests.unit.engine.looms import eventually

RELOADS = int(os.environ.get("CHARLOOM_RELOADS", "6"))


class Folder:
    """A folder of models whose versions have the weights of one bundle, and a digest each."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path = path
        self._bundle = bundle

    def beside(self, version: str, model: str = "small") -> Path:
        """A version that only a request loads: its name begins with a dot."""
        path = self.path / model / f".{version}"
        shutil.copytree(self._bundle.path, path)
        change_manifest(path, lambda manifest: manifest.update(name=model, training={"version": version}))
        return path

    def add(self, version: str, model: str = "small") -> Path:
        """Let a version appear."""
        return self.beside(version, model).rename(self.path / model / version)


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "models", bundle)


@pytest.fixture
def started(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Server, Client]]]:
    """Starts a server of version 1 of "small", which looks at its folder often."""
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 0.3)
    open_now = []

    def start(**more: Any) -> tuple[Server, Client]:
        settings = ServerSettings(
            grace_seconds=0, model_folder=folder.path, **{"max_rows": 4, "workers": 1, "decoder": "onnx-int8", **more}
        )
        first = read_bundle(folder.add("1"))
        running = running_server([(first, open_decoder(first, kind=DecoderKind.ONNX_INT8))], settings)
        server = running.__enter__()
        client = Client(server.address, timeout=120)
        open_now.append((running, client))
        return server, client

    yield start
    for running, client in open_now:
        client.close()
        running.__exit__(None, None, None)


def states(client: Client) -> list[tuple[str, str, ModelState]]:
    return [(one.name, one.version, one.state) for one in client.model_versions()]


def test_no_call_fails_in_reloads(folder: Folder, started: Callable[..., tuple[Server, Client]]) -> None:
    server, client = started()
    expected = client.complete("The ", seed=3, max_tokens=60).text
    stop, failures, done = threading.Event(), [], {"texts": 0, "sessions": 0, "observed": 0}

    def repeat(kind: str, once: Callable[[], None]) -> threading.Thread:
        def work() -> None:
            while not stop.is_set():
                try:
                    once()
                    done[kind] += 1
                except Exception as problem:
                    failures.append(problem)
                    return

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def text() -> None:
        assert client.complete("The ", seed=3, max_tokens=60).text == expected

    def session() -> None:
        with client.session(seed=3) as session:
            digest = session.info.model_digest
            session.feed("The ")
            text = "".join(session.complete(max_tokens=20).text for _ in range(3))
            assert text == expected
            assert client.get_session(session.id).model_digest == digest

    def observed() -> None:
        with client.observe() as observer:
            for _ in range(5):
                observer.read("The ")

    # One session and one text go on through all of it.
    lasting = client.session(seed=3, keep=True)
    first_digest = lasting.info.model_digest
    long = client.generate("The ", seed=3, max_tokens=20_000)
    beginning = next(long)
    threads = [repeat("texts", text), repeat("texts", text), repeat("sessions", session), repeat("observed", observed)]
    try:
        for number in range(2, RELOADS + 2):
            folder.beside(str(number))
            assert client.load_model(f"small/.{number}").changed
            assert not failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert all(count > 3 for count in done.values()), done
    assert client.model().digest != first_digest
    assert lasting.complete("The ", max_tokens=60).text == expected
    assert client.get_session(lasting.id).model_digest == first_digest
    assert (beginning + "".join(long)).startswith(expected)
    assert len(server.engine.models) == 1


def test_a_broken_bundle_is_refused_with_the_file_and_the_old_one_goes_on(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    _, client = started()
    changed = folder.beside("2")
    (changed / "vocabulary.json").write_bytes((changed / "vocabulary.json").read_bytes()[:-1])
    no_decoder = folder.beside("3")
    replace_file(no_decoder, "decoder.int8.onnx", b"none")
    running = client.generate("The ", max_tokens=5000)
    for version, said in (
        ("2", "the file vocabulary.json was changed"),
        ("3", "the file decoder.int8.onnx is not a decoder"),
        ("4", "there is no manifest.json"),
    ):
        with pytest.raises(FailedPrecondition, match=said) as refused:
            client.load_model(f"small/.{version}")
        assert refused.value.reason == "MODEL_UNUSABLE"
        assert ("small", "1", ModelState.SERVING) in states(client)
    assert len("".join(running)) == 5000
    assert running.result().model_digest == client.model().digest


def test_a_model_from_elsewhere_has_to_be_signed_too(
    folder: Folder, started: Callable[..., tuple[Server, Client]], tmp_path: Path
) -> None:
    key = new_signing_key(tmp_path / "key.pem")
    (tmp_path / "trusted.pem").write_bytes(public_pem(key))
    _, client = started(trusted_keys=tmp_path / "trusted.pem")
    second = folder.beside("2")
    with pytest.raises(FailedPrecondition, match="it is not signed"):
        client.load_model("small/.2")
    sign(read_bundle(second), key)
    assert client.load_model("small/.2").changed


@pytest.mark.parametrize("path", ["../elsewhere", "small/link", "/etc", "small/../../elsewhere"])
def test_no_path_leads_out_of_what_the_operator_named(
    path: str, folder: Folder, started: Callable[..., tuple[Server, Client]], tmp_path: Path
) -> None:
    shutil.copytree(folder.beside("x"), tmp_path / "elsewhere")
    _, client = started()
    (folder.path / "small" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied, match="is not below a folder that the operator"):
        client.load_model(path)
    assert not client.load_model(str(folder.path / "small" / "1")).changed


def test_a_malformed_path_is_invalid(started: Callable[..., tuple[Server, Client]]) -> None:
    _, client = started()
    for path in ("", "a\0b"):
        with pytest.raises(InvalidArgument, match="path"):
            client.load_model(path)


def test_a_path_whose_links_go_in_a_circle_is_refused(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    _, client = started()
    (folder.path / "circle").symlink_to(folder.path / "circle")
    with pytest.raises((InvalidArgument, FailedPrecondition)) as refused:  # the latter from Python 3.13 on
        client.load_model("circle")
    assert refused.value.reason in ("INVALID_REQUEST", "MODEL_UNUSABLE")


def test_a_model_in_use_can_be_unloaded_and_the_last_one_not(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    _, client = started()
    with pytest.raises(FailedPrecondition, match="the only one") as refused:
        client.unload_model("small")
    assert refused.value.reason == "LAST_MODEL"
    folder.beside("1", "other")
    client.load_model("other/.1")
    session = client.session(keep=True)
    running = client.generate("The ", max_tokens=5000)
    next(running)
    unloaded = client.unload_model("small")
    assert (unloaded.state, unloaded.calls > 0) == (ModelState.DRAINING, True)
    assert unloaded.grace_end_time is not None
    assert client.model().name == "other"
    with pytest.raises(NotFound, match="there is no model 'small' here"):
        client.complete("The ", model="small")
    assert session.complete("The ", max_tokens=5).result.model == "small"
    assert len("".join(running)) > 4000
    assert states(client) == [("other", ".1", ModelState.SERVING), ("small", "1", ModelState.DRAINING)]
    assert client.load_model("small/1").changed
    assert ("small", "1", ModelState.SERVING) in states(client)
    with pytest.raises(NotFound):
        client.unload_model("big")


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What is given back is given back without a collection of garbage, which would hold up everybody."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_after_its_grace_a_model_gives_its_memory_back_and_its_sessions_are_told(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    server, client = started(model_grace_seconds=0)
    folder.beside("2")
    client.load_model("small/.2")  # nothing but the server holds it
    decoder = weakref.ref(server.engine.models[0].decoder)
    session = client.session(keep=True)
    state = session.export().state
    running = client.generate("The ", max_tokens=20_000)
    next(running)
    assert client.complete("The ", max_tokens=5).text
    with client.converse("The ") as conversation:
        conversation.generate(5)
        next(iter(conversation))
    with client.observe() as observer:
        observer.read("The ")
        folder.beside("3")
        client.load_model("small/.3")
        with pytest.raises(FailedPrecondition, match="move it to another") as refused:
            session.complete("The ")
        assert refused.value.reason == "MODEL_RETIRED"
        time.sleep(2 * model_upkeep.LOOK_SECONDS)
        observer.read("The ")  # a call that had begun goes on
        assert ("small", ".2", ModelState.DRAINING) in states(client)
    with pytest.raises(FailedPrecondition) as refused:
        client.import_session(state, keep=True)
    assert refused.value.reason == "MODEL_RETIRED"
    assert len("".join(running)) > 10_000
    del running, observer
    eventually(lambda: states(client) == [("small", ".3", ModelState.SERVING)])
    eventually(lambda: decoder() is None)


def test_a_session_is_moved_to_the_next_version_and_goes_on(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    server, client = started(model_grace_seconds=0)
    session = client.session(seed=3, keep=True)
    session.feed("The ")
    folder.beside("2")
    version = client.load_model("small/.2").version
    with pytest.raises(FailedPrecondition):
        session.complete(max_tokens=5)
    moved = session.move(expected_position=4)
    assert (moved.model, moved.model_digest, moved.position) == ("small", version.digest, 4)
    assert session.complete(max_tokens=60).text == client.complete("The ", seed=3, max_tokens=60).text
    with grpc.insecure_channel(server.address) as channel:
        stub = sessions_pb2_grpc.SessionServiceStub(channel)
        asked = sessions_pb2.MoveSessionRequest(session_id=session.id, expected_position=5)
        assert refused(lambda: stub.MoveSession(asked, timeout=30))[1] == "STALE_POSITION"
        asked = sessions_pb2.MoveSessionRequest(session_id=session.id, model="big")
        assert refused(lambda: stub.MoveSession(asked, timeout=30))[1] == "MODEL_NOT_FOUND"


def test_memory_for_two_versions_that_is_not_there_is_told_before_it_is_tried(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = started()
    folder.beside("2")
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: pytest.fail("it was tried"))
    monkeypatch.setattr(server.engine.budget, "most", 2**20)
    with pytest.raises(Overloaded, match=r"may need [\d.]+ MiB of memory, and 1\.0 are free of the 1\.0") as refused:
        client.load_model("small/.2")
    assert refused.value.reason == "MODEL_TOO_LARGE"
    assert refused.value.metadata["free"] == str(2**20)
    assert client.complete("The ", max_tokens=5).text


def test_two_loads_of_one_name_at_once(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = started()
    folder.beside("2")
    folder.beside("3")
    opening, go_on = threading.Event(), threading.Event()
    opened = model_changes.open_decoder

    def slow(*arguments: Any, **more: Any) -> Any:
        opening.set()
        assert go_on.wait(60)
        return opened(*arguments, **more)

    monkeypatch.setattr(model_changes, "open_decoder", slow)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(client.load_model, "small/.2")
        assert opening.wait(60)
        assert ("small", ".2", ModelState.LOADING) in states(client)
        for change in (lambda: client.load_model("small/.3"), lambda: client.unload_model("small")):
            with pytest.raises(Conflict) as refused:
                change()
            assert refused.value.reason == "MODEL_BUSY"
        go_on.set()
        assert load.result().version.version == ".2"


def test_a_load_goes_on_when_who_asked_for_it_goes_away(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = started()
    folder.beside("2")
    go_on, opened = threading.Event(), model_changes.open_decoder

    def slow(*arguments: Any, **more: Any) -> Any:
        assert go_on.wait(60)
        return opened(*arguments, **more)

    monkeypatch.setattr(model_changes, "open_decoder", slow)
    with pytest.raises(DeadlineExceeded):
        client.load_model("small/.2", timeout=0.3)
    go_on.set()
    eventually(lambda: ("small", ".2", ModelState.SERVING) in states(client))


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
        eventually(lambda: "version 10 of model small is left alone until it is complete" in caplog.text)
    assert "is missing" in caplog.text
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
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, client = started()
    budget = server.engine.budget
    most = budget.most
    monkeypatch.setattr(budget, "most", 2**20)
    folder.add("2")
    eventually(lambda: "model small was not loaded: model 'small' may need" in caplog.text)
    time.sleep(2 * model_upkeep.LOOK_SECONDS)
    assert caplog.text.count("was not loaded") == 1
    assert states(client) == [("small", "1", ModelState.SERVING)]
    monkeypatch.setattr(budget, "most", most)
    eventually(lambda: ("small", "2", ModelState.SERVING) in states(client))


def test_a_load_that_does_not_end_keeps_no_other_model_from_being_loaded(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = started()
    reading, go_on, read = threading.Event(), threading.Event(), model_changes.read_trusted_bundle

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
    time.sleep(2.5 * model_upkeep.LOOK_SECONDS)
    assert states(client) == [("small", "1", ModelState.SERVING)]
    audit_log.rmdir()  # it can be written again
    eventually(lambda: ("small", "2", ModelState.SERVING) in states(client))
    of_all = ("load-model", f"bundle {shown(str(second))}", "model folder")
    eventually(lambda: told() == [(*of_all, "begun"), (*of_all, "done")])


def test_each_model_has_its_own_health(folder: Folder, started: Callable[..., tuple[Server, Client]]) -> None:
    server, client = started()

    def health(name: str) -> str:
        with grpc.insecure_channel(server.address) as channel:
            request = health_pb2.HealthCheckRequest(service=f"model/{name}")
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
            except grpc.RpcError as problem:
                return str(problem.code().name)  # type: ignore[attr-defined]
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    eventually(lambda: health("small") == "SERVING")
    assert health("other") == "NOT_FOUND"
    folder.beside("1", "other")
    client.load_model("other/.1")
    eventually(lambda: health("other") == "SERVING")
    client.unload_model("small")
    eventually(lambda: health("small") == "NOT_SERVING")


def test_what_the_messages_say(folder: Folder, started: Callable[..., tuple[Server, Client]]) -> None:
    server, client = started()
    folder.beside("1", "other")
    with grpc.insecure_channel(server.address) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        loaded = stub.LoadModel(models_pb2.LoadModelRequest(path="other/.1"), timeout=120)
        assert (loaded.changed, loaded.version.name, loaded.version.version) == (True, "other", ".1")
        assert loaded.version.digest == client.model("other").digest
        folder.add("2")
        reloaded = stub.ReloadModel(models_pb2.ReloadModelRequest(), timeout=120)
        assert reloaded.version.version == "2"
        again = stub.ReloadModel(models_pb2.ReloadModelRequest(name="small"), timeout=120)
        assert (again.changed, again.version) == (False, reloaded.version)
        before = time.time()
        unloaded = stub.UnloadModel(models_pb2.UnloadModelRequest(name="other"), timeout=120).version
        assert unloaded.state == models_pb2.MODEL_STATE_DRAINING
        assert 590 < unloaded.grace_end_time.seconds - before < 700
        assert refused(lambda: stub.UnloadModel(models_pb2.UnloadModelRequest()))[1] == "INVALID_REQUEST"
        assert refused(lambda: stub.ReloadModel(models_pb2.ReloadModelRequest(name="no")))[1] == "MODEL_NOT_FOUND"


def test_what_is_changed_is_in_the_audit_log_first(
    folder: Folder, started: Callable[..., tuple[Server, Client]], tmp_path: Path
) -> None:
    audit_log = tmp_path / "audit.jsonl"
    _, client = started(audit_log=audit_log)
    folder.beside("1", "other")
    loaded = client.load_model("other/.1").version
    client.reload_model("other")
    with pytest.raises(NotFound):
        client.reload_model("none")
    client.unload_model("other")
    lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
    assert [(line["act"], line["on"], line["result"], line.get("reason")) for line in lines] == [
        ("load-model", "bundle 'other/.1'", "begun", None),
        ("load-model", "bundle 'other/.1'", "done", None),
        ("reload-model", "model 'other'", "begun", None),
        ("reload-model", "model 'other'", "done", None),
        ("reload-model", "model 'none'", "begun", None),
        ("reload-model", "model 'none'", "failed", "MODEL_NOT_FOUND"),
        ("unload-model", "model 'other'", "begun", None),
        ("unload-model", "model 'other'", "done", None),
    ]
    assert {line["digest"] for line in lines if line["result"] == "done"} == {loaded.digest}
    audit_log.unlink()
    audit_log.mkdir()
    with pytest.raises(Unavailable) as refusal:
        client.load_model("other/.1")
    assert refusal.value.reason == "AUDIT_LOG_UNAVAILABLE"
    assert [one.name for one in client.models()] == ["small"]


def test_a_model_whose_threads_cannot_be_started_is_refused(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = started(workers=3)
    folder.beside("2")
    start, looms = threading.Thread.start, list[threading.Thread]()

    def third_is_refused(thread: threading.Thread) -> None:
        if thread.name.startswith("charloom-loom"):
            if len(looms) == 2:
                raise RuntimeError("can't start new thread")
            looms.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", third_is_refused)
    with pytest.raises(FailedPrecondition, match="nothing has changed: can't start new thread") as refused:
        client.load_model("small/.2")
    assert refused.value.reason == "MODEL_UNUSABLE"
    eventually(lambda: not any(thread.is_alive() for thread in looms))
    assert states(client) == [("small", "1", ModelState.SERVING)]
    assert client.complete("The ", max_tokens=5).text


@pytest.mark.parametrize("method", ["LoadModel", "ReloadModel", "UnloadModel"])
def test_what_changes_models_is_for_administrators(method: str) -> None:
    assert scope_of(f"/charloom.v1.ModelService/{method}") is Scope.ADMIN


def test_the_command(
    folder: Folder, started: Callable[..., tuple[Server, Client]], capsys: pytest.CaptureFixture[str]
) -> None:
    server, client = started()

    def said(*arguments: str, code: int = 0) -> str:
        assert main(["models", *arguments, "--target", server.address]) == code
        out, errors = capsys.readouterr()
        return errors if code else out

    folder.beside("2")
    folder.beside("1", "other")
    assert said("load", "small/.2") == f"small .2 ({client.model().digest[:12]}) serves now\n"
    assert said("load", "small/.2") == f"small .2 ({client.model().digest[:12]}) served already\n"
    said("load", "other/.1")
    assert said("reload").splitlines() == [
        f"small 1 ({client.model('small').digest[:12]}) serves now",
        f"other .1 ({client.model('other').digest[:12]}) served already",
    ]
    assert said("unload", "other").splitlines()[1].split()[:3] == ["other", ".1", "draining"]
    shown = [line.split()[:3] for line in said("versions").splitlines()[1:]]
    assert shown == [["small", "1", "serving"], ["small", ".2", "draining"], ["other", ".1", "draining"]]
    assert [one["version"] for one in json.loads(said("versions", "--json"))] == ["1", ".2", ".1"]
    assert [line.split()[0] for line in said().splitlines()] == ["NAME", "small"]
    assert "the only one" in said("unload", "small", code=1)
    assert "no model 'other'" in said("reload", "other", "small", code=1)
    assert "load needs one PATH" in said("load", code=1)


def test_the_metrics_of_a_model_go_on_with_its_next_version(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    server, client = started(metrics_port=0, model_grace_seconds=0)

    def metrics() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return {one.name: one.value for one in samples if one.labels == {"model": "small"}}

    client.complete("The ", max_tokens=100)
    running = client.generate("The ", max_tokens=20_000)
    next(running)
    folder.beside("2")
    client.load_model("small/.2")
    with_old = metrics()
    assert with_old["charloom_num_requests_running"] == 1  # it runs on the version that drains
    assert with_old["charloom_rows_capacity"] == 4
    assert with_old["charloom_generation_tokens_total"] > 100
    client.complete("The ", max_tokens=50)
    assert len("".join(running)) > 10_000
    eventually(lambda: len(states(client)) == 1)
    assert metrics()["charloom_generation_tokens_total"] == 20_150
    assert metrics()["charloom_num_requests_running"] == 0
