"""Models are loaded, replaced and unloaded while a real server serves."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from charloom.bundle import read_bundle
from charloom.client import (
    Client,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    ModelState,
    NotFound,
    Overloaded,
    PermissionDenied,
)
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.server import model_changes
from charloom.server.app import Server
from charloom.server.identity.signatures import new_signing_key, public_pem, sign
from charloom.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import refused
from tests.integration.model_versions import Folder, states
from tests.unit.bundle.bundle_files import replace_file
from tests.unit.client.proxy import Proxy
from tests.waiting import eventually

RELOADS = int(os.environ.get("CHARLOOM_RELOADS", "6"))


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
        eventually(lambda: bool(failures) or all(count > 3 for count in done.values()))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
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
    running = client.generate("The ", max_tokens=20_000)
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
    folder: Folder, started: Callable[..., tuple[Server, Client]], looks_again: Callable[[], None]
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
        looks_again()
        observer.read("The ")  # a call that had begun goes on
        assert ("small", ".2", ModelState.DRAINING) in states(client)
    with pytest.raises(FailedPrecondition) as refused:
        client.import_session(state, keep=True)
    assert refused.value.reason == "MODEL_RETIRED"
    assert len("".join(running)) > 10_000
    del running, observer
    eventually(lambda: states(client) == [("small", ".3", ModelState.SERVING)])
    eventually(lambda: decoder() is None)


@pytest.mark.parametrize("grace", [600, 0])
def test_a_stream_without_session_that_breaks_off_goes_on_with_its_model_or_not_at_all(
    folder: Folder, started: Callable[..., tuple[Server, Client]], grace: int
) -> None:
    server, operator = started(model_grace_seconds=grace)
    expected = operator.complete("The ", seed=3, max_tokens=2_000).text
    proxy = Proxy(server.address)
    try:
        with Client(proxy.target) as client:
            stream = client.generate("The ", seed=3, max_tokens=2_000)
            text = next(stream)
            proxy.mute = True  # so that the rest does not arrive meanwhile
            folder.beside("2")
            operator.load_model("small/.2")
            proxy.cut()
            proxy.mute = False
            if grace:
                assert text + "".join(stream) == expected
                assert stream.result().model_digest != operator.model().digest
            else:
                with pytest.raises(FailedPrecondition, match="begin the text anew") as refused:
                    "".join(stream)
                assert refused.value.reason == "CALL_OF_ANOTHER_MODEL"
    finally:
        proxy.stop()


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
        assert refused(lambda: stub.MoveSession(asked, timeout=60))[1] == "STALE_POSITION"
        asked = sessions_pb2.MoveSessionRequest(session_id=session.id, model="big")
        assert refused(lambda: stub.MoveSession(asked, timeout=60))[1] == "MODEL_NOT_FOUND"


def test_memory_for_two_versions_that_is_not_there_is_told_before_it_is_tried(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = started()
    folder.beside("2")
    monkeypatch.setattr(model_changes, "open_decoder", lambda *_, **__: pytest.fail("it was tried"))
    monkeypatch.setattr(server.engine.budget, "most", 2**20)
    monkeypatch.setattr(server.engine.budget, "_others", lambda: 0)  # what the decoders' first steps took differs
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
    opened = open_decoder

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
    server, client = started()
    folder.beside("2")
    opening, go_on, opened = threading.Event(), threading.Event(), open_decoder

    def slow(*arguments: Any, **more: Any) -> Any:
        opening.set()
        assert go_on.wait(60)
        return opened(*arguments, **more)

    monkeypatch.setattr(model_changes, "open_decoder", slow)
    with grpc.insecure_channel(server.address) as channel:
        asked = models_pb2_grpc.ModelServiceStub(channel).LoadModel.future(models_pb2.LoadModelRequest(path="small/.2"))
        assert opening.wait(60)
        asked.cancel()
        eventually(lambda: not server.engine.totals.methods["charloom.v1.ModelService/LoadModel"].running)
    go_on.set()
    eventually(lambda: ("small", ".2", ModelState.SERVING) in states(client))
