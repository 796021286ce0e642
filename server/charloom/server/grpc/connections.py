"""How the server treats connections: the options of gRPC that its settings stand for."""

from __future__ import annotations

from charloom.server.settings import ServerSettings


def connection_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Options for `grpc.aio.server`; https://github.com/grpc/grpc/blob/master/doc/keepalive.md says what they do."""
    options = {
        # Without this, a second server on the same port would start and take half of the calls.
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        "grpc.keepalive_time_ms": _milliseconds(settings.keepalive_seconds),
        "grpc.keepalive_timeout_ms": _milliseconds(settings.keepalive_timeout_seconds),
        # Of the ping itself; without it, gRPC 1.85 waits a minute whatever the line above says.
        "grpc.http2.ping_timeout_ms": _milliseconds(settings.keepalive_timeout_seconds),
        # Pings go on while there is no call, and however long nothing else is sent.
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.http2.min_ping_interval_without_data_ms": _milliseconds(settings.client_ping_seconds),
        "grpc.http2.max_ping_strikes": 2,
    }
    if settings.connection_idle_seconds is not None:
        options["grpc.max_connection_idle_ms"] = _milliseconds(settings.connection_idle_seconds)
    if settings.connection_age_seconds is not None:
        options["grpc.max_connection_age_ms"] = _milliseconds(settings.connection_age_seconds)
    return list(options.items())


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
