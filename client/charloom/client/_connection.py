"""Whom a client talks to and how: address, deadline, access, and the options of its channel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc

from charloom.client import _request_ids, _target, _trace_context, _values
from charloom.client._access import Access
from charloom.client._errors import CharloomError
from charloom.client._options import NotGiven, Timeout
from charloom.client._statuses import from_rpc_error

DEFAULT_TARGET = "localhost:50051"
"""Where `charloom serve` listens unless it is told otherwise."""
DEFAULT_TIMEOUT = 60.0
# Cleaning up must not keep a program from ending: the server forgets the session later anyway.
CLEANUP_TIMEOUT = 5.0
PAGE_SIZE = 500
# Of one message, either way; the server's default is the same.
MESSAGE_BYTES = 64 * 2**20

ChannelOptions = Sequence[tuple[str, Any]]
"""Options of gRPC's channels by their names there, such as `("grpc.max_receive_message_length", 2**27)`."""

_SESSION = "charloom-session"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_CLOSED = "this client is closed; make a new one"

# Reading twice does no harm. A call that changes something is not repeated: the first try may have had its effect. Only
# a stream of text is, by what it says of itself; see `Resumption`.
_READS = [
    {"service": "charloom.v1.ModelService", "method": "ListModels"},
    {"service": "charloom.v1.ModelService", "method": "GetModel"},
    {"service": "charloom.v1.StatusService", "method": "GetStatus"},
    {"service": "charloom.v1.TenantService", "method": "ListTenantData"},
    {"service": "charloom.v1.SessionService", "method": "GetSession"},
    {"service": "charloom.v1.SessionService", "method": "ListSessions"},
    {"service": "charloom.v1.SessionService", "method": "ExportSession"},
    {"service": "charloom.v1.ClassificationService", "method": "Classify"},
    {"service": "charloom.v1.ReadingService", "method": "Score"},
    {"service": "charloom.v1.ReadingService", "method": "Peek"},
    {"service": "charloom.v1.ReadingService", "method": "Inspect"},
]
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_DEFAULT_OPTIONS: dict[str, Any] = {
    "grpc.service_config": json.dumps({"methodConfig": [{"name": _READS, "retryPolicy": _RETRY}]}),
    # gRPC's defaults wait up to two minutes before they look for a server that has come back.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2000,
    # gRPC's default for what is received, 4 MiB, is less than some answers with log-probabilities have.
    "grpc.max_receive_message_length": MESSAGE_BYTES,
    "grpc.max_send_message_length": MESSAGE_BYTES,
    # Proxies drop a connection that is silent for a minute, and one whose other end is gone is noticed by nothing else.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 20_000,
    # Of the ping itself; without it, gRPC 1.85 waits a minute whatever the line above says.
    "grpc.http2.ping_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    # By default gRPC stops after two pings in a silent stream.
    "grpc.http2.max_pings_without_data": 0,
}


class BaseConnection:
    """What the blocking and the asyncio connection are told alike."""

    def __init__(
        self,
        target: str,
        timeout: float | None,
        access: Access,
        channel_options: ChannelOptions,
        *,
        shared_stream: bool = False,
    ) -> None:
        self.shares_stream = _values.flag("shared_stream", shared_stream)
        """Whether calls of Generate share one stream."""
        self.target = _values.target("target", target)
        self._timeout = _values.deadline(timeout)
        self._credentials, self._metadata = access
        options = {**_DEFAULT_OPTIONS, **dict(_target.options(self.target)), **dict(channel_options)}
        self._options = tuple(options.items())
        self.closed = False

    def seconds(self, timeout: Timeout) -> float | None:
        """The deadline of a call: its own timeout, or else the client's."""
        return self._timeout if isinstance(timeout, NotGiven) else _values.deadline(timeout)

    def new_call(self, request: Any = None) -> CallContext:
        """What goes with a call that begins now.

        Args:
            request: what is asked first; a proxy can keep its session with one server. None: of no session.

        """
        return CallContext(self, self._metadata, request)

    def require_open(self) -> None:
        """Refuse a call of a client that was closed."""
        if self.closed:
            raise RuntimeError(_CLOSED)


class CallContext:
    """What goes with a call, and what its reader needs to know of it."""

    def __init__(self, connection: BaseConnection, metadata: tuple[tuple[str, str], ...], request: Any) -> None:
        self._connection = connection
        self.request_id = _request_ids.next_id()
        """Of the call, and of what is made again of it."""
        session = _session_of(request)
        # One that is no session's id is for the server to refuse.
        sticky = ((_SESSION, session),) if session.isascii() and session.isprintable() and session else ()
        self.trace = _trace_context.carried()
        """Which trace it belongs to."""
        self.metadata = (*metadata, (_request_ids.KEY, self.request_id), *sticky, *self.trace)
        """Whose it is, its id, which session it is about, and which trace it belongs to."""

    @property
    def target(self) -> str:
        """The server's address."""
        return self._connection.target

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._connection.closed

    def failure(self, error: grpc.RpcError) -> CharloomError:
        """What gRPC raised, as an error of the SDK."""
        return from_rpc_error(error, self.target, stopped=self.closed, request_id=self.request_id)


def _session_of(request: Any) -> str:
    """The id of the session that a request is about, which its start or its options may say; "" where none does."""
    part = request
    while part is not None and not hasattr(part, "session_id"):
        part = getattr(part, "start", None) or getattr(part, "options", None)
    return "" if part is None else part.session_id
