"""Where the spans of a server process go."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from charloom.server.telemetry.trace_export import TraceExport, open_exporter


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what is exported over OTLP."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.taken += request.resource_spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    server.stop(0).wait()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "charloom"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,a=b"}, "ours"),
    ],
)
def test_spans_go_where_the_environment_says_under_its_name(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    export = TraceExport(open_exporter())
    export.provider.get_tracer("test").start_span("one").end()
    export.close()
    (taken,) = collector.taken
    assert [span.name for scope in taken.scope_spans for span in scope.spans] == ["one"]
    attributes = {one.key: one.value.string_value for one in taken.resource.attributes}
    assert attributes["service.name"] == name


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "needs the exporter zipkin.*pip install opentelemetry-exporter-zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "pip install opentelemetry-exporter-otlp-proto-http"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "otlp_proto_grpc cannot be made: .*soon"),
    ],
)
def test_what_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=words):
        open_exporter()


class Fails(SpanExporter):
    def __init__(self, *results: SpanExportResult | Exception) -> None:
        self.results = list(results)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def test_failures_are_told_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = SpanExportResult.FAILURE, SpanExportResult.SUCCESS
    exporter = Fails(good, bad, RuntimeError("no"), bad, good, good, bad)
    caplog.set_level(logging.INFO)
    export = TraceExport(exporter)
    while exporter.results:
        export.provider.get_tracer("test").start_span("one").end()
        export.provider.force_flush()
    export.close()
    down = "traces cannot be exported, and are dropped until they can be; calls go on"
    assert [record.getMessage() for record in caplog.records] == [down, "traces are exported again", down]
