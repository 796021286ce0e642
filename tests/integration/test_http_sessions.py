"""/v1/sessions: what gRPC's SessionService does, as plain JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from charloom.bundle import Bundle, DecoderKind, read_bundle
from charloom.client import Client
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.errors import SessionExpired
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.integration.http_client import client, refused
from tests.integration.model_versions import Folder
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.export.random_bundle import without_weights

TEXT = "The def statement "


@pytest.fixture(scope="module")
def plain(http_server: Server) -> Iterator[httpx.Client]:
    with client(http_server) as plain:
        yield plain


@pytest.fixture(scope="module")
def grpc_client(http_server: Server) -> Iterator[Client]:
    with Client(http_server.address) as grpc_client:
        yield grpc_client


def done(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_session_is_made_told_renewed_and_forgotten(plain: httpx.Client, grpc_client: Client) -> None:
    made = done(plain.post("/v1/sessions", json={"session_id": "one", "seed": 7, "time_to_live": 60.5}), 201)
    assert (made["id"], made["object"], made["model"], made["seed"]) == ("one", "session", "small", 7)
    assert (made["position"], made["version"], made["time_to_live"], made["origin"]) == (0, 0, 60.5, None)
    assert made["expires_at"] - made["created_at"] == pytest.approx(60.5, abs=0.01)
    assert abs(made["created_at"] - time.time()) < 60
    assert done(plain.get("/v1/sessions/one")) == made
    assert grpc_client.get_session("one").seed == 7
    renewed = done(plain.patch("/v1/sessions/one", json={"time_to_live": 100}))
    assert renewed["time_to_live"] == 100
    assert renewed["expires_at"] > made["expires_at"]
    gone = done(plain.delete("/v1/sessions/one"))
    assert (gone["id"], gone["deleted"]) == ("one", True)
    assert refused(plain.get("/v1/sessions/one"))[:2] == (410, "session_deleted")


def test_sessions_are_listed_page_by_page(plain: httpx.Client) -> None:
    for name in ("p1", "p2", "p3"):
        done(plain.post("/v1/sessions", json={"session_id": name}), 201)
    first = done(plain.get("/v1/sessions?limit=2&after=p"))
    assert ([one["id"] for one in first["data"]], first["last_id"], first["has_more"]) == (["p1", "p2"], "p2", True)
    rest = done(plain.get(f"/v1/sessions?after={first['last_id']}"))
    assert rest["data"][0]["id"] == "p3"
    assert not rest["has_more"]
    for name in ("charloom_x", "charloom_0123abcd_" + "0" * 46):  # as keys begin, which have more digits than an id
        done(plain.post("/v1/sessions", json={"session_id": name}), 201)
        assert name not in [one["id"] for one in done(plain.get(f"/v1/sessions?after={name}"))["data"]]
    for wrong in ("0", "1001", "x", "-1", "9" * 50):
        assert refused(plain.get(f"/v1/sessions?limit={wrong}"))[:3] == (400, "invalid_request", "limit")


def test_a_text_is_read_and_put_back(plain: httpx.Client) -> None:
    done(plain.post("/v1/sessions", json={"session_id": "read", "seed": 1}), 201)
    fed = done(plain.post("/v1/sessions/read/feed", json={"text": TEXT, "expected_position": 0}))
    assert (fed["position"], fed["version"]) == (len(TEXT), 1)
    goes_on = {"session_id": "read", "max_tokens": 20}
    text = done(plain.post("/v1/completions", json=goes_on))["choices"][0]["text"]
    whole = done(plain.post("/v1/completions", json={"prompt": TEXT, "seed": 1, "max_tokens": 20}))
    assert text == whole["choices"][0]["text"]
    back = done(plain.post("/v1/sessions/read/rewind", json={"position": len(TEXT)}))
    assert back["position"] == len(TEXT)
    assert done(plain.post("/v1/completions", json=goes_on))["choices"][0]["text"] == text
    stale = {"text": "x", "expected_position": 3}
    assert refused(plain.post("/v1/sessions/read/feed", json=stale))[:2] == (409, "stale_position")
    assert refused(plain.post("/v1/sessions/read/rewind", json={"position": 10**6}))[:2] == (400, "position_not_kept")


def test_copies_go_on_by_themselves(plain: httpx.Client) -> None:
    done(plain.post("/v1/sessions", json={"session_id": "root", "seed": 1}), 201)
    done(plain.post("/v1/sessions/root/feed", json={"text": TEXT}))
    body = {"position": 4, "new_session_ids": ["left", "right"], "count": 2, "seed": 5}
    copies = done(plain.post("/v1/sessions/root/fork", json=body), 201)["data"]
    assert [(one["id"], one["position"], one["seed"]) for one in copies] == [("left", 4, 5), ("right", 4, 6)]
    assert copies[0]["origin"] == {"session_id": "root", "position": 4}
    assert refused(plain.post("/v1/sessions/root/fork", json={"count": 1001}))[:3] == (400, "invalid_request", "count")
    mixed = {
        "sources": [{"session_id": "left", "weight": 1}, {"session_id": "right", "weight": 3.5}],
        "session_id": "mixed",
    }
    assert done(plain.post("/v1/sessions/blend", json=mixed), 201)["position"] == 4
    assert refused(plain.post("/v1/sessions/blend", json=mixed))[:2] == (409, "session_exists")


def test_a_state_leaves_and_comes_back(plain: httpx.Client) -> None:
    done(plain.post("/v1/sessions", json={"session_id": "away", "seed": 1}), 201)
    done(plain.post("/v1/sessions/away/feed", json={"text": TEXT}))
    sealed = done(plain.post("/v1/sessions/away/export", json={"time_to_live": 60}))
    assert 0 < sealed["expires_at"] - time.time() <= 60
    back = done(plain.post("/v1/sessions/import", json={"state": sealed["state"], "session_id": "back"}), 201)
    assert (back["id"], back["position"], back["exact"]) == ("back", len(TEXT), True)
    text = [
        done(plain.post("/v1/completions", json={"session_id": name, "max_tokens": 20}))["choices"][0]["text"]
        for name in ("away", "back")
    ]
    assert text[0] == text[1]
    broken = f"{sealed['state'][:-8]}AAAAAAA="
    assert refused(plain.post("/v1/sessions/import", json={"state": broken}))[:2] == (400, "sealed_state_corrupt")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("", {"session_id": "no/slash"}, "session_id"),
        ("", {"session_id": "a" * 65}, "session_id"),
        ("", {"session_id": 5}, "session_id"),
        ("", {"seed": 2**64}, "seed"),
        ("", {"seed": -1}, "seed"),
        ("", {"time_to_live": -1}, "time_to_live"),
        ("", {"time_to_live": 0}, "time_to_live"),
        ("", {"time_to_live": 1e300}, "time_to_live"),
        ("", {"time_to_live": "long"}, "time_to_live"),
        ("/import", {}, "state"),
        ("/import", {"state": "?"}, "state"),
        ("/blend", {"sources": []}, "sources"),
        ("/blend", {"sources": [{"session_id": "a"}]}, "sources[0].weight"),
        ("/bad/feed", {}, "text"),
        ("/bad/feed", {"text": "a\u2603"}, "text"),
        ("/bad/rewind", {"position": -1}, "position"),
        ("/bad/move", {"unknown_characters": "keep"}, "unknown_characters"),
        ("/bad/move", {"expected_position": -1}, "expected_position"),
        ("/bad/fork", {"new_session_ids": ["a", "a"], "count": 2}, "new_session_ids"),
    ],
)
def test_a_wrong_field_is_named(plain: httpx.Client, route: str, body: dict[str, Any], param: str) -> None:
    plain.post("/v1/sessions", json={"session_id": "bad"})
    assert refused(plain.post(f"/v1/sessions{route}", json=body))[:3] == (400, "invalid_request", param)


def test_a_session_that_is_not_there(plain: httpx.Client, http_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/feed"), ("POST", "/export")):
        body = None if method in ("GET", "DELETE") else {"text": "a"}
        answer = plain.request(method, f"/v1/sessions/nowhere{path}", json=body)
        assert refused(answer)[:2] == (404, "session_not_found")

    async def expired(key: object) -> None:
        raise SessionExpired("late", datetime.now(timezone.utc) - timedelta(minutes=1))

    monkeypatch.setattr(http_server.engine.sessions._store, "get", expired)
    answer = plain.get("/v1/sessions/late")
    assert refused(answer)[:2] == (410, "session_expired")
    assert answer.json()["error"]["facts"]["time"]


def test_an_expired_session_is_gone(plain: httpx.Client) -> None:
    done(plain.post("/v1/sessions", json={"session_id": "brief", "time_to_live": 0.05}), 201)
    time.sleep(0.1)
    assert refused(plain.post("/v1/completions", json={"session_id": "brief"}))[:2] == (410, "session_expired")


def test_a_session_is_moved_to_another_model(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    without_weights(tmp_path / "other", hidden=8)  # it knows lower case up to o
    change_manifest(tmp_path / "other", lambda manifest: manifest.update(name="other"))
    other = read_bundle(tmp_path / "other")
    models = [(bundle, decoder), (other, open_decoder(other, kind=DecoderKind.ONNX_INT8))]
    log = tmp_path / "audit.jsonl"
    settings = ServerSettings(grace_seconds=0, http_port=0, audit_log=log)
    with running_server(models, settings) as server, client(server) as plain:
        done(plain.post("/v1/sessions", json={"session_id": "moves", "seed": 3}), 201)
        done(plain.post("/v1/sessions/moves/feed", json={"text": "a good man; no"}))

        def move(**body: Any) -> httpx.Response:
            return plain.post("/v1/sessions/moves/move", json=body)

        assert refused(plain.post("/v1/sessions/nowhere/move", json={}))[:2] == (404, "session_not_found")
        assert not log.read_text()
        assert refused(move(model="big"))[:2] == (404, "model_not_found")
        assert refused(move(model="other", expected_position=3))[:2] == (409, "stale_position")
        lacks = refused(move(model="other"))
        assert lacks[:3] == (400, "invalid_request", "model")
        assert "';'" in lacks[3]
        moved = done(move(model="other", unknown_characters="skip", expected_position=14))
        assert (moved["id"], moved["model"], moved["position"], moved["seed"]) == ("moves", "other", 13, 3)
        assert moved["digest"] == other.manifest.digest
        assert done(plain.post("/v1/completions", json={"session_id": "moves", "max_tokens": 5}))["choices"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["act"], line["on"]) for line in lines} == {("move-session", "session 'moves'")}
    assert [line["result"] for line in lines] == ["begun", "failed"] * 3 + ["begun", "done"]
    assert (lines[-1]["model"], lines[-1]["digest"]) == ("other", other.manifest.digest)


def test_a_session_whose_model_was_replaced_is_told_how_to_go_on(
    folder: Folder, started: Callable[..., tuple[Server, Client]]
) -> None:
    server, grpc_client = started(model_grace_seconds=0, http_port=0)
    with client(server) as plain:
        done(plain.post("/v1/sessions", json={"session_id": "stays", "seed": 3}), 201)
        done(plain.post("/v1/sessions/stays/feed", json={"text": "The "}))
        folder.beside("2")
        version = grpc_client.load_model("small/.2").version
        goes_on = {"session_id": "stays", "max_tokens": 20}
        gone = refused(plain.post("/v1/completions", json=goes_on))
        assert gone[:2] == (400, "model_retired")
        assert "POST .../move" in gone[3]
        moved = done(plain.post("/v1/sessions/stays/move", json={}))
        assert (moved["model"], moved["digest"], moved["position"]) == ("small", version.digest, 4)
        whole = done(plain.post("/v1/completions", json={"prompt": "The ", "seed": 3, "max_tokens": 20}))
        assert done(plain.post("/v1/completions", json=goes_on))["choices"][0]["text"] == whole["choices"][0]["text"]
