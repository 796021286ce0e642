"""Spans of OpenTelemetry: one per call, with child spans for the work done for it; made when the call has ended.

Knows the API of OpenTelemetry, and nothing of where spans go: that is up to the provider that the process has set.
"""

from __future__ import annotations

import time

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from charloom.engine.telemetry import CallRecord, Timeline
from charloom.server.codes import OK

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span one of an error, by the semantic conventions; the others are the client's doing."""


class Traces:
    """Makes spans of calls, in the traces that the calls' headers name, by the propagators of the process."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("charloom.server")
        self._propagator = propagate.get_global_textmap()
        self.carriers = frozenset(name.lower() for name in self._propagator.fields)
        """Headers, or metadata, in which a call says which trace it belongs to."""

    def tell(self, call: CallRecord) -> None:
        """Make the spans of a call that has ended and has a timeline."""
        timeline = call.timeline
        assert timeline is not None
        clock = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            call.method,
            self._propagator.extract(timeline.carried),
            SpanKind.SERVER,
            attributes=_attributes(call, timeline),
            start_time=_nanoseconds(call.begun, clock),
        )
        if span.is_recording():
            if call.code in FAULTS:
                span.set_status(Status(StatusCode.ERROR, call.reason or call.code))
            inside = trace.set_span_in_context(span)
            for step in timeline.steps:
                attributes = None if step.tokens is None else {"charloom.tokens": step.tokens}
                child = self._tracer.start_span(
                    step.name, inside, attributes=attributes, start_time=_nanoseconds(step.begun, clock)
                )
                child.end(_nanoseconds(step.ended, clock))
        span.end(_nanoseconds(call.ended, clock))


def _attributes(call: CallRecord, timeline: Timeline) -> dict[str, AttributeValue]:
    """Attributes by the semantic conventions; those without a conventional name are `charloom...`."""
    told: dict[str, AttributeValue]
    verb, _, path = call.method.partition(" ")
    if path:
        told = {"http.request.method": verb, "http.route": path}
    else:
        told = {"rpc.system.name": "grpc", "rpc.method": call.method, "rpc.response.status_code": call.code}
    further: dict[str, AttributeValue] = {
        "error.type": call.reason or ("" if call.code == OK else call.code),
        "charloom.request_id": call.request_id,
        "charloom.tenant": call.tenant,
        "charloom.model": call.model,
        "charloom.finish_reason": call.finish,
        "charloom.prompt_tokens": call.prompt_tokens,
        "charloom.generation_tokens": call.generation_tokens,
        "charloom.resumed": call.resumed,
        "charloom.steps_left_out": timeline.left_out,
    }
    return told | {name: value for name, value in further.items() if value not in ("", 0)}


def _nanoseconds(at: float, clock: int) -> int:
    """A time of `time.monotonic` as the time of day."""
    return round(at * 1e9) + clock
