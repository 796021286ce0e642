"""What both connections share: address, deadline, access, channel options, and the context of a call."""

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
"""Where `charloom serve` listens by default."""
DEFAULT_TIMEOUT = 60.0
# Cleaning up must not keep a program from ending: the server forgets the session later anyway.
CLEANUP_TIMEOUT = 5.0
PAGE_SIZE = 500
# Limit of one message in either direction; the server has the same default.
MESSAGE_BYTES = 64 * 2**20

ChannelOptions = Sequence[tuple[str, Any]]
"""Channel options by gRPC's names, such as `("grpc.max_receive_message_length", 2**27)`."""

_SESSION = "charloom-session"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_CLOSED = "this client is closed; make a new one"

# Methods that gRPC may retry, because they only read. A call that changes something is not repeated: the first try may
# have had its effect. The exception is a stream of text, which carries its position; see `Resumption`.
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
    # gRPC's default, 4 MiB, is too small for some answers with log-probabilities.
    "grpc.max_receive_message_length": MESSAGE_BYTES,
    "grpc.max_send_message_length": MESSAGE_BYTES,
    # Proxies drop a connection that is silent for a minute, and only a ping notices that the other end is gone.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 20_000,
    # How long to wait for the ping's answer; without it, gRPC 1.85 waits a minute whatever the keepalive time is.
    "grpc.http2.ping_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    # By default gRPC stops after two pings in a silent stream.
    "grpc.http2.max_pings_without_data": 0,
}


class BaseConnection:
    """What the blocking and the asyncio connection have in common."""

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
        """The deadline of a call in seconds: its own timeout, or else the client's."""
        return self._timeout if isinstance(timeout, NotGiven) else _values.deadline(timeout)

    def new_call(self, request: Any = None) -> CallContext:
        """Make the context of a call that begins now.

        Args:
            request: its first request. The id of its session goes into the metadata, so that a proxy can route a
                session to one server. None: no session.

        """
        return CallContext(self, self._metadata, request)

    def require_open(self) -> None:
        """Refuse a call of a client that was closed."""
        if self.closed:
            raise RuntimeError(_CLOSED)


class CallContext:
    """A call's request id, trace and metadata, and what turns its errors into those of the SDK."""

    def __init__(self, connection: BaseConnection, metadata: tuple[tuple[str, str], ...], request: Any) -> None:
        self._connection = connection
        self.request_id = _request_ids.next_id()
        """Id of the call; it stays the same when the call is made again."""
        session = _session_of(request)
        # An id that cannot be in a header is left out: the server refuses the request anyway.
        sticky = ((_SESSION, session),) if session.isascii() and session.isprintable() and session else ()
        self.trace = _trace_context.carried()
        """Metadata of the trace that the call belongs to."""
        self.metadata = (*metadata, (_request_ids.KEY, self.request_id), *sticky, *self.trace)
        """The caller's identity, the request id, the session's id and the trace."""

    @property
    def target(self) -> str:
        """The server's address."""
        return self._connection.target

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._connection.closed

    def failure(self, error: grpc.RpcError) -> CharloomError:
        """Turn an error of gRPC into one of the SDK."""
        return from_rpc_error(error, self.target, stopped=self.closed, request_id=self.request_id)


def _session_of(request: Any) -> str:
    """The session id in a request, its `start` or its `options`; "" if there is none."""
    part = request
    while part is not None and not hasattr(part, "session_id"):
        part = getattr(part, "start", None) or getattr(part, "options", None)
    return "" if part is None else part.session_id
