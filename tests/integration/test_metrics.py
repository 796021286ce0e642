"""What a running server tells: metrics as Prometheus reads them, the id of each call, and the log of calls."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Iterator
from unittest.mock import AsyncMock

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from charloom.bundle import Bundle
from charloom.client import Client, NotFound
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.errors import StoreUnavailable
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.telemetry import engine_metrics
from charloom.server.telemetry.metrics_listener import MOST_SCRAPES
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.http_client import client
from tests.waiting import eventually

SECRET = "to be or not"


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    settings = ServerSettings(grace_seconds=0, http_port=0, metrics_port=0, metrics_per_tenant=True, log_calls=True)
    with running_server([(bundle, decoder)], settings) as server:
        yield server


def scraped(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(server: Server, name: str, **labels: str) -> float:
    return scraped(server).get((name, tuple(sorted(labels.items()))), 0.0)


def options(**fields: object) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(**fields))  # type: ignore[arg-type]


def test_what_calls_do_is_in_the_metrics(
    server: Server,
    bundle: Bundle,
    generation: generation_pb2_grpc.GenerationServiceStub,
    sessions: sessions_pb2_grpc.SessionServiceStub,
) -> None:
    model = bundle.manifest.name
    before = scraped(server)
    sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="told"))
    list(generation.Generate(options(session_id="told", prompt=SECRET, max_tokens=50)))
    method = "charloom.v1.GenerationService/Generate"
    ended = {"method": method, "code": "OK", "reason": ""}
    eventually(lambda: value(server, "charloom_requests_total", **ended) == 1)
    after = scraped(server)

    def rise(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    assert rise("charloom_prompt_tokens_total", model=model) == len(SECRET)
    assert rise("charloom_generation_tokens_total", model=model) == 50
    assert rise("charloom_row_steps_total", model=model) >= len(SECRET) + 50
    assert rise("charloom_request_success_total", model=model, finished_reason="length") == 1
    for histogram in ("request_queue_time_seconds", "time_to_first_token_seconds"):
        assert rise(f"charloom_{histogram}_count", model=model) == 1
    assert rise("charloom_inter_token_latency_seconds_count", model=model) == 49
    assert rise("charloom_tick_rows_count", model=model) == rise("charloom_tick_seconds_count", model=model) > 0
    assert rise("charloom_store_seconds_count", operation="acquire") == 1
    assert rise("charloom_store_seconds_count", operation="release") == 1
    assert rise("charloom_e2e_request_latency_seconds_count", method=method) == 1
    assert rise("charloom_tenant_generation_tokens_total", tenant="") == 50
    assert after["charloom_calls_running", (("method", method),)] == 0
    assert after["charloom_session_memory_bytes", ()] > 0


def test_a_refusal_is_counted_by_its_reason(
    server: Server, generation: generation_pb2_grpc.GenerationServiceStub
) -> None:
    with pytest.raises(grpc.RpcError):
        list(generation.Generate(options(model="none")))
    ended = {
        "method": "charloom.v1.GenerationService/Generate",
        "code": "NOT_FOUND",
        "reason": "MODEL_NOT_FOUND",
    }
    eventually(lambda: value(server, "charloom_requests_total", **ended) == 1)
    with pytest.raises(grpc.RpcError):
        list(generation.Generate(options(), metadata=(("charloom-tenant", "somebody"),)))
    eventually(lambda: value(server, "charloom_refusals_total", reason="TENANT_NOT_ALLOWED") == 1)


async def test_the_sessions_of_the_store_are_counted_now_and_then(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_metrics, "COUNT_SECONDS", 0.02)
    settings = ServerSettings(grace_seconds=0, metrics_port=0)
    with (
        running_server([(bundle, decoder)], settings) as server,
        Client(server.address) as client,
        client.session(),
        client.session(),
    ):
        eventually(lambda: value(server, "charloom_sessions") == 2)
        counted = server.engine.sessions.count
        for problem in (StoreUnavailable("gone"), RuntimeError("can't start new thread")):
            monkeypatch.setattr(server.engine.sessions, "count", AsyncMock(side_effect=problem))
            eventually(lambda: ("charloom_sessions", ()) not in scraped(server))
            monkeypatch.setattr(server.engine.sessions, "count", counted)
            eventually(lambda: value(server, "charloom_sessions") == 2)


def test_whoever_never_ends_a_scrape_hurts_nobody(
    server: Server, generation: generation_pb2_grpc.GenerationServiceStub
) -> None:
    host, _, port = server.metrics_address.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(MOST_SCRAPES)]
    try:
        idle[0].sendall(b"GET /metrics HTTP/1.0\r\n")
        further = socket.create_connection((host, int(port)))
        further.settimeout(60)
        assert further.recv(1) == b""
        further.close()
        with pytest.raises(BlockingIOError):  # it was closed at once: the others are there
            idle[0].recv(1, socket.MSG_DONTWAIT)
        text = "".join(reply.text for reply in generation.Generate(options(max_tokens=20)))
        assert len(text) == 20
    finally:
        for connection in idle:
            connection.close()
    eventually(lambda: _answers(server))


def _answers(server: Server) -> bool:
    try:
        return bool(scraped(server))
    except OSError:
        return False


@pytest.mark.parametrize(
    ("given", "kept"), [(["order-7"], True), ([], False), (["a b"], False), (["x" * 129], False), (["a", "b"], False)]
)
def test_a_call_has_an_id(generation: generation_pb2_grpc.GenerationServiceStub, given: list[str], kept: bool) -> None:
    metadata = tuple(("charloom-request-id", one) for one in given)
    call = generation.Generate(options(max_tokens=1), metadata=metadata)
    list(call)
    (told,) = (str(text) for key, text in call.trailing_metadata() if key == "charloom-request-id")
    assert (given == [told]) is kept
    assert len(told) == 32 or kept


@pytest.mark.parametrize(("own", "kept"), [([], "of-the-proxy"), (["order-7"], "order-7")])
def test_a_proxy_may_name_a_call_that_its_client_does_not(
    generation: generation_pb2_grpc.GenerationServiceStub, own: list[str], kept: str
) -> None:
    metadata = (("x-request-id", "of-the-proxy"), *(("charloom-request-id", one) for one in own))
    call = generation.Generate(options(max_tokens=1), metadata=metadata)
    list(call)
    assert ("charloom-request-id", kept) in call.trailing_metadata()


def test_an_error_of_the_sdk_has_the_id_that_the_log_has(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Client(server.address) as client, pytest.raises(NotFound) as caught:
        client.complete("Hi", model="none")

    def logged() -> list[str]:
        found = [getattr(record, "fields", {}) for record in caplog.records]
        return [fields["code"] for fields in found if fields.get("request_id") == caught.value.request_id]

    eventually(lambda: logged() == ["NOT_FOUND"])


def test_an_error_names_the_id_of_its_call(generation: generation_pb2_grpc.GenerationServiceStub) -> None:
    call = generation.Generate(options(model="none"), metadata=(("charloom-request-id", "order-8"),))
    with pytest.raises(grpc.RpcError):
        list(call)
    info = error_details_pb2.RequestInfo()
    status = rpc_status.from_call(call)
    assert status is not None
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    assert info.request_id == "order-8"
    assert ("charloom-request-id", "order-8") in call.trailing_metadata()


def test_a_line_of_the_log_tells_of_a_call_and_not_its_text(
    generation: generation_pb2_grpc.GenerationServiceStub, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    call = options(prompt=SECRET, max_tokens=30)
    text = "".join(r.text for r in generation.Generate(call, metadata=(("charloom-request-id", "order-9"),)))

    def lines() -> list[dict[str, object]]:
        found = [getattr(record, "fields", {}) for record in caplog.records]
        return [fields for fields in found if fields.get("request_id") == "order-9"]

    eventually(lambda: len(lines()) == 1)
    (line,) = lines()
    told = ("method", "code", "finish", "model", "prompt_tokens", "generation_tokens")
    assert [line[name] for name in told] == [
        "charloom.v1.GenerationService/Generate",
        "OK",
        "length",
        bundle.manifest.name,
        len(SECRET),
        30,
    ]
    for name in ("queued", "first_token", "total"):
        assert isinstance(line[name], float)
    assert SECRET not in str(line)
    assert text not in str(line)


def test_calls_over_http_are_in_the_metrics_and_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with client(server) as api:
        body = {"prompt": SECRET, "max_tokens": 30, "stream": True}
        text = api.post("/v1/completions", json=body, headers={"x-request-id": "order-10"}).text
        assert api.post("/v1/completions", json={"model": "none"}).status_code == 404
    method = "POST /v1/completions"
    refused = {"code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND"}
    for told in ({"code": "OK", "reason": ""}, refused):
        eventually(lambda told=told: value(server, "charloom_requests_total", method=method, **told) == 1)
    assert value(server, "charloom_e2e_request_latency_seconds_count", method=method) == 2

    def lines() -> list[dict[str, object]]:
        found = [getattr(record, "fields", {}) for record in caplog.records]
        return [fields for fields in found if fields.get("request_id") == "order-10"]

    eventually(lambda: len(lines()) == 1)
    (line,) = lines()
    assert (line["method"], line["code"], line["finish"]) == (method, "OK", "length")
    assert (line["prompt_tokens"], line["generation_tokens"]) == (len(SECRET), 30)
    assert isinstance(line["first_token"], float)
    assert text not in str(line)
    assert SECRET not in str(line)
