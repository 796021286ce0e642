"""From the messages of status.proto to values of the SDK."""

from __future__ import annotations

from charloom.client._status_types import Histogram, MethodStatus, ModelStatus, ServerStatus, TenantStatus
from charloom.v1 import status_pb2


def server_status(message: status_pb2.GetStatusResponse) -> ServerStatus:
    """Read the status of a server."""
    return ServerStatus(
        seconds=message.seconds,
        usage=message.usage,
        models=tuple(map(_model, message.models)),
        methods=tuple(map(_method, message.methods)),
        tenants=tuple(map(_tenant, message.tenants)),
        refusals=dict(message.refusals),
        sessions=message.sessions if message.HasField("sessions") else None,
        sessions_in_use=message.sessions_in_use,
        session_bytes=message.session_bytes,
        call_bytes=message.call_bytes,
        most_bytes=message.most_bytes or None,
    )


def _model(message: status_pb2.ModelStatus) -> ModelStatus:
    return ModelStatus(
        name=message.name,
        decoder=message.decoder,
        device=message.device,
        running=message.running,
        waiting=message.waiting,
        places=message.places,
        generation_tokens=message.generation_tokens,
        prompt_tokens=message.prompt_tokens,
        tick_rows=_histogram(message.tick_rows),
        tick_seconds=_histogram(message.tick_seconds),
        queue_seconds=_histogram(message.queue_seconds),
        first_token_seconds=_histogram(message.first_token_seconds),
        inter_token_seconds=_histogram(message.inter_token_seconds),
    )


def _method(message: status_pb2.MethodStatus) -> MethodStatus:
    return MethodStatus(
        name=message.name,
        running=message.running,
        ended=message.ended,
        failed=message.failed,
        seconds=_histogram(message.seconds),
    )


def _tenant(message: status_pb2.TenantStatus) -> TenantStatus:
    return TenantStatus(
        name=message.name,
        running=message.running,
        ended=message.ended,
        failed=message.failed,
        prompt_tokens=message.prompt_tokens,
        generation_tokens=message.generation_tokens,
    )


def _histogram(message: status_pb2.Histogram) -> Histogram:
    return Histogram(bounds=tuple(message.bounds), counts=tuple(message.counts), sum=message.sum)
