"""How the server treats connections: translates its settings to options of gRPC."""

from __future__ import annotations

from charloom.server.connection_limit import most_connections
from charloom.server.settings import ServerSettings

NEVER = 2**31 - 1
"""The largest number that gRPC takes."""
METADATA_BYTES = 16 * 2**10
"""The most metadata of a call: room for a JSON Web Token with what a proxy adds."""


def connection_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Options for `grpc.aio.server`; https://github.com/grpc/grpc/blob/master/doc/keepalive.md says what they do."""
    options = {
        # By default, a second server on the same port would start and take half of the calls.
        "grpc.so_reuseport": int(settings.processes > 1),
        # A client with this many calls must hold back further ones, by HTTP/2. This also bounds a client that resets
        # its calls at once, because gRPC counts each call until its memory is free.
        "grpc.max_concurrent_streams": settings.max_streams,
        # Calls that wait for the event loop. By default gRPC (since 1.60) cancels some of them without a reason from
        # 1000 on, and those that have waited for 30 s; here, `CallLimit` refuses calls, with a reason.
        "grpc.server.max_pending_requests": NEVER,
        "grpc.server.max_pending_requests_hard_limit": NEVER,
        "grpc.server_max_unrequested_time_in_server": NEVER // 1000,
        # Longer metadata is refused. Between the soft and the hard limit, gRPC would refuse some calls by chance.
        "grpc.max_metadata_size": METADATA_BYTES,
        "grpc.absolute_max_metadata_size": METADATA_BYTES,
        # Further connections are closed as soon as they arrive.
        "grpc.max_allowed_incoming_connections": most_connections(settings),
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        "grpc.keepalive_time_ms": _milliseconds(settings.keepalive_seconds),
        "grpc.keepalive_timeout_ms": _milliseconds(settings.keepalive_timeout_seconds),
        # How long to wait for the ping's answer; without it, gRPC 1.85 waits a minute whatever the keepalive time is.
        "grpc.http2.ping_timeout_ms": _milliseconds(settings.keepalive_timeout_seconds),
        # Send pings also while there is no call, and however long nothing else is sent.
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
