"""Spans of a running server, as an exporter sees them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from charloom.bundle import Bundle
from charloom.client import Client, DeadlineExceeded, NotFound, Observer, request_id
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.telemetry.trace_export import TraceExport, open_exporter
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.integration import http_client
from tests.integration.test_proxied_tenants import certificates, client_of, envoy_proxy
from tests.ports import free_port
from tests.waiting import eventually

__all__ = ["certificates"]

METHOD = "charloom.v1.GenerationService/Generate"
SECRET = "to be or not"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    """The provider of the process, as long as the tests of this module run."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trace, "get_tracer_provider", lambda: provider)
        yield provider


@pytest.fixture(scope="module")
def server(bundle: Bundle, decoder: Decoder, provider: TracerProvider) -> Iterator[Server]:
    settings = ServerSettings(grace_seconds=0, traces=True, trust_proxy="127.0.0.1", http_port=0)
    with running_server([(bundle, decoder)], settings) as server:
        yield server


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    """Of the application."""
    return trace.get_tracer("application")


@pytest.fixture(autouse=True)
def _no_spans(exporter: InMemorySpanExporter) -> None:
    exporter.clear()


def spans_of(exporter: InMemorySpanExporter, id: str) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The span of a call, and those in it in the order of their times."""

    def found() -> list[ReadableSpan]:
        spans = exporter.get_finished_spans()
        return [one for one in spans if dict(one.attributes or {}).get("charloom.request_id") == id]

    eventually(lambda: len(found()) == 1)
    (call,) = found()
    children = [
        one for one in exporter.get_finished_spans() if one.parent and one.parent.span_id == call.context.span_id
    ]
    return call, sorted(children, key=lambda one: one.start_time or 0)


@pytest.mark.parametrize("shared_stream", [False, True])
def test_a_call_is_a_span_in_its_callers_trace_and_what_is_done_for_it_are_spans_in_that(
    server: Server, bundle: Bundle, exporter: InMemorySpanExporter, tracer: Tracer, shared_stream: bool
) -> None:
    with (
        Client(server.address, shared_stream=shared_stream) as client,
        client.session() as session,
        tracer.start_as_current_span("page") as page,
        request_id("order-1"),
    ):
        session.complete(SECRET, max_tokens=30)
    call, children = spans_of(exporter, "order-1")
    assert (call.name, call.kind) == (METHOD, SpanKind.SERVER)
    assert call.parent is not None
    assert (call.context.trace_id, call.parent.span_id) == (
        page.get_span_context().trace_id,
        page.get_span_context().span_id,
    )
    assert dict(call.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "charloom.request_id": "order-1",
        "charloom.model": bundle.manifest.name,
        "charloom.finish_reason": "length",
        "charloom.prompt_tokens": len(SECRET),
        "charloom.generation_tokens": 30,
    }
    assert call.status.status_code is StatusCode.UNSET
    assert [child.name for child in children] == ["store acquire", "queue", "prompt", "generation", "store release"]
    tokens = [dict(child.attributes or {}).get("charloom.tokens") for child in children]
    assert tokens == [None, None, len(SECRET), 30, None]
    times = [(child.start_time, child.end_time) for child in children]
    assert all(begun <= ended for begun, ended in times)
    assert [ended for _, ended in times[1:3]] == [begun for begun, _ in times[2:4]]
    assert call.start_time <= times[0][0]
    assert times[-1][1] <= call.end_time
    assert SECRET not in str([one.to_json() for one in exporter.get_finished_spans()])
    if shared_stream:

        def streams() -> list[ReadableSpan]:
            return [one for one in exporter.get_finished_spans() if one.name == f"{METHOD}Many"]

        eventually(lambda: len(streams()) == 1)
        assert streams()[0].context.trace_id != call.context.trace_id


def read_on(observer: Observer) -> None:
    while True:
        observer.read("a")


def test_an_error_is_one_where_it_is_the_servers(server: Server, exporter: InMemorySpanExporter) -> None:
    with Client(server.address) as client:
        with request_id("order-2"), pytest.raises(NotFound):
            client.complete("Hi", model="none")
        call, children = spans_of(exporter, "order-2")
        attributes = dict(call.attributes or {})
        assert attributes["rpc.response.status_code"] == "NOT_FOUND"
        assert attributes["error.type"] == "MODEL_NOT_FOUND"
        assert call.status.status_code is StatusCode.UNSET
        assert children == []
        with request_id("order-3"):
            observer = client.observe(timeout=2)
        observer.read("a")
        with pytest.raises(DeadlineExceeded):
            read_on(observer)
    call, _ = spans_of(exporter, "order-3")
    attributes = dict(call.attributes or {})
    assert attributes["rpc.response.status_code"] == attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert call.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("said", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_call_that_belongs_to_no_trace_begins_one(server: Server, exporter: InMemorySpanExporter, said: str) -> None:
    request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(prompt="Hi", max_tokens=2))
    with grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        metadata = (("charloom-request-id", "order-4"), *([("traceparent", said)] if said else []))
        list(stub.Generate(request, metadata=metadata, timeout=60))
    call, _ = spans_of(exporter, "order-4")
    assert call.parent is None


def test_a_trace_that_is_not_sampled_has_no_spans(server: Server, exporter: InMemorySpanExporter) -> None:
    request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(prompt="Hi", max_tokens=2))
    with grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        for id, sampled in (("order-5", "00"), ("order-6", "01")):
            traceparent = f"00-{'1' * 32}-{'2' * 16}-{sampled}"
            metadata = (("charloom-request-id", id), ("traceparent", traceparent))
            list(stub.Generate(request, metadata=metadata, timeout=60))
    spans_of(exporter, "order-6")
    assert "order-5" not in str([one.to_json() for one in exporter.get_finished_spans()])


def test_a_call_over_http_is_a_span_too(server: Server, exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": f"00-{'3' * 32}-{'4' * 16}-01", "x-request-id": "order-7"}
    with http_client.client(server) as client:
        body = {"model": server.engine.models[0].name, "prompt": "Hi", "max_tokens": 3}
        client.post("/v1/completions", json=body, headers=headers).raise_for_status()
    call, children = spans_of(exporter, "order-7")
    assert call.context.trace_id == int("3" * 32, 16)
    attributes = dict(call.attributes or {})
    assert (attributes["http.request.method"], attributes["http.route"]) == ("POST", "/v1/completions")
    assert "rpc.system.name" not in attributes
    assert [child.name for child in children] == ["queue", "prompt", "generation"]


def test_a_proxy_passes_the_trace_on(
    server: Server, exporter: InMemorySpanExporter, tracer: Tracer, certificates: Path, tmp_path: Path
) -> None:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(envoy_proxy(port, server.port, certificates, tmp_path), stdout=log, stderr=log)
    try:
        with client_of(certificates, "nobody", port) as client:
            client.wait_until_ready()
            with tracer.start_as_current_span("page") as page, request_id("order-8"):
                client.complete("Hi", max_tokens=3)
    finally:
        process.terminate()
        process.wait(60)
    call, _ = spans_of(exporter, "order-8")
    assert call.context.trace_id == page.get_span_context().trace_id
    assert call.parent is not None
    assert call.parent.span_id == page.get_span_context().span_id


def test_an_exporter_that_is_down_hurts_nobody(
    bundle: Bundle,
    decoder: Decoder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    caplog.set_level(logging.INFO)
    export = TraceExport(open_exporter())
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: export.provider)
    settings = ServerSettings(grace_seconds=0, traces=True)
    with running_server([(bundle, decoder)], settings) as server, Client(server.address) as client:
        for _ in range(3):
            assert len(client.complete("Hi", max_tokens=20).text) == 20
            export.provider.force_flush()  # each time it tries, and fails
    export.close()
    told = [record.getMessage() for record in caplog.records if "traces" in record.getMessage()]
    assert told == ["traces cannot be exported, and are dropped until they can be; calls go on"]
    assert [record.name for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_who_does_not_ask_for_traces_does_not_import_what_makes_them() -> None:
    code = (
        "import sys, charloom.cli.serving.serve, charloom.server.app; from charloom.client import Client\n"
        "from charloom.client._trace_context import carried; assert carried() == ()\n"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
