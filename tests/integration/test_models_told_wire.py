"""What is told of models that change while a real server serves: health, messages, the audit log, metrics."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from charloom.cli.main import main
from charloom.client import (
    Client,
    FailedPrecondition,
    ModelState,
    NotFound,
    Unavailable,
)
from charloom.server import model_upkeep
from charloom.server.app import Server
from charloom.server.identity.scopes import Scope, scope_of
from charloom.v1 import models_pb2, models_pb2_grpc
from tests.integration.conftest import health_stub, refused
from tests.integration.model_versions import Folder, states
from tests.waiting import eventually


def test_each_model_has_its_own_health(folder: Folder, started: Callable[..., tuple[Server, Client]]) -> None:
    server, client = started()

    def health(name: str) -> str:
        with grpc.insecure_channel(server.address) as channel:
            request = health_pb2.HealthCheckRequest(service=f"model/{name}")
            try:
                answer = health_stub(channel).Check(request, timeout=60)
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


def test_what_the_messages_say(
    folder: Folder, started: Callable[..., tuple[Server, Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = started()
    monkeypatch.setattr(model_upkeep, "LOOK_SECONDS", 600)  # nobody but this test loads the next version
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
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as answer:
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
