"""Where the traces of a server process go: the SDK of OpenTelemetry, as its environment variables want it.

Spans that cannot be exported are dropped, in a thread of the SDK, without an effect on calls.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

CLOSING_SECONDS = 2.0
"""How long the last spans may take to leave, and then the exporter to notice that it has to end."""


class TraceExport:
    """Exports the spans of a process until `close`.

    Args:
        exporter: sends them

    An application that embeds a server, and sets a provider of its own, needs none.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        # It logs at each try what `_Told` logs once.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self.name = type(exporter).__qualname__
        self._exporter = exporter
        resource = Resource.create({SERVICE_NAME: "charloom"}).merge(OTELResourceDetector().detect())
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(_Told(exporter)))

    def install(self) -> None:
        """Let all tracers of the process make spans that are exported here."""
        trace.set_tracer_provider(self.provider)

    def close(self) -> None:
        """Export what is left; what takes too long is dropped."""
        last = threading.Thread(target=self.provider.shutdown, name="charloom-traces", daemon=True)
        last.start()
        last.join(CLOSING_SECONDS)
        if last.is_alive():
            self._exporter.shutdown()
            last.join(CLOSING_SECONDS)


def open_exporter() -> SpanExporter:
    """The exporter that OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL name: OTLP over gRPC where they do not.

    Raises:
        ValueError: it is not installed, or the variables ask for what it cannot do.
    """
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if name == "otlp":
        variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next((said for one in variables if (said := os.environ.get(one, "").strip())), "grpc")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = next(iter(importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        raise ValueError(f"--traces needs the exporter {name}, which is not installed; run: pip install {package}")
    try:
        exporter: Any = found.load()()
    except Exception as problem:
        raise ValueError(f"--traces: the exporter {name} cannot be made: {problem}") from problem
    assert isinstance(exporter, SpanExporter)
    return exporter


class _Told(SpanExporter):
    """Wraps an exporter: logs when it begins to fail, and when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as problem:
            log.debug("an exporter raised an error", exc_info=problem)
            result = SpanExportResult.FAILURE
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            log.warning("traces cannot be exported, and are dropped until they can be; calls go on")
        elif self._fails and not fails:
            log.info("traces are exported again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
