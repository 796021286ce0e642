"""What can go wrong, and the one table from gRPC status codes to these classes.

    CharloomError
    ├── InvalidValue (also a ValueError)   the call was not sent: no message can carry the value
    ├── ConnectionFailed                   no server answered, or the connection, or a proxy on it, broke the call off
    └── RequestError                       the server answered with an error
        ├── InvalidArgument                a field is out of range, or the model cannot read the text
        ├── NotFound                       no such model or session
        │   └── SessionExpired             the session existed and has been forgotten
        ├── AlreadyExists                  the session id is in use
        ├── FailedPrecondition             a state of another model, or one that expired
        ├── PositionNotKept                the session cannot go back so far
        ├── Conflict                       the session is in use, or is not at the expected position
        ├── MessageTooLarge                a request or an answer is larger than the client or the server takes
        ├── Overloaded                     the server has as much work, or as many sessions, as it takes
        │   └── QuotaExceeded              the caller has as much as it may have
        ├── Unavailable                    the server is loading or stopping, or cannot reach its sessions
        ├── DeadlineExceeded               the call did not finish in time
        ├── Cancelled                      the call was cancelled
        ├── PermissionDenied               the state belongs to somebody else
        ├── Unauthenticated                the server wants credentials
        ├── Unimplemented                  the server does not offer this call
        ├── DataLoss                       stored state is damaged
        └── InternalError                  a fault of the server

A wrong name of an option is a TypeError, and a call through a closed client a RuntimeError, as in plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import google.protobuf.message
import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped,unused-ignore]
from grpc_status import rpc_status

from charloom.client import _target

DOMAIN = "charloom"


class CharloomError(Exception):
    """Any failure that the SDK reports.

    Attributes:
        request_id: of the call that failed, which the server's log names it by; empty where no call was made.

    """

    request_id: str = ""

    def __repr__(self) -> str:
        plain = super().__repr__()
        return f"{plain[:-1]}, request_id={self.request_id!r})" if self.request_id else plain


class InvalidValue(CharloomError, ValueError):
    """A value that no message can carry, such as a negative seed. The call was not sent.

    Attributes:
        field: name of the parameter.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self._problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self._problem}"


class ConnectionFailed(CharloomError):
    """No server answered, or the connection broke. What a session had received last is still in its state.

    Whatever ends a call that neither its caller nor the server ended is this: a proxy that has no server, or loses it,
    a reset, a stream that is closed from outside.
    """


class RequestError(CharloomError):
    """The server answered with an error.

    Attributes:
        message: the server's words.
        code: the gRPC status code.
        reason: a fixed word for the situation, such as "SESSION_BUSY"; empty if the server gave none.
        metadata: further values of the situation, by name.
        violations: pairs of a field and what is wrong with it.
        retry_after: seconds after which the server suggests to try again; `None` if it does not.

    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        more = [f"{field}: {fault}" for field, fault in self.violations if fault not in self.message]
        return "; ".join([self.message or self.code.name, *more])

    def _number(self, name: str) -> int | None:
        value = self.metadata.get(name, "")
        return int(value) if value.isdecimal() else None


class InvalidArgument(RequestError):
    """A field is out of range, or the model cannot read the text; `violations` names each field.

    SEALED_STATE_VERSION is a state of a version that the server does not know.
    """


class NotFound(RequestError):
    """No such model or session."""


class SessionExpired(NotFound):
    """The session existed and has been forgotten."""


class AlreadyExists(RequestError):
    """The session id is in use."""


class FailedPrecondition(RequestError):
    """The session or state belongs to another model, the state's time is up, or the model cannot be inspected.

    The reasons are SESSION_OF_ANOTHER_MODEL, SEALED_STATE_OF_ANOTHER_MODEL, SEALED_STATE_EXPIRED,
    MODEL_NOT_INSPECTABLE, and of models that are changed while the server runs MODEL_RETIRED, MODEL_UNUSABLE and
    LAST_MODEL.
    """


class PositionNotKept(RequestError):
    """The session cannot be put back to this position: it lies in the future, or too far back."""

    @property
    def position(self) -> int | None:
        """The position that was asked for; `None` if the server did not say."""
        return self._number("position")

    @property
    def earliest(self) -> int | None:
        """The earliest position that the session can be put back to; `None` if the server did not say."""
        return self._number("earliest")


class Conflict(RequestError):
    """The session is in use by another call (SESSION_BUSY) or not where it was expected (STALE_POSITION).

    SESSION_TAKEN_OVER is a call that another one went on with: what it generated since is not in the session.
    """


class MessageTooLarge(RequestError):
    """A request or an answer is larger than one of the two sides, or a proxy, takes; the message says which.

    Trying again does not help; sending or asking for less does, or a higher limit: of the client with
    `channel_options` (`grpc.max_receive_message_length`, 64 MiB by default), of the server with its settings.
    """

    @property
    def size(self) -> int | None:
        """How large it is, in bytes; `None` if nobody said."""
        return self._number("size")

    @property
    def limit(self) -> int | None:
        """How large it may be, in bytes; `None` if nobody said."""
        return self._number("limit")


class Overloaded(RequestError):
    """The server has as much work, or as many sessions, as it takes, or no room (STORE_FULL); see `retry_after`."""


class QuotaExceeded(Overloaded):
    """The caller asks for more than it may have, whatever others do; `metadata` names the limit and has the numbers.

    `retry_after` is None where no time helps, as for a text that is too long.
    """


class Unavailable(RequestError):
    """The server is loading or stopping (DRAINING), or cannot reach its sessions (STORE_UNAVAILABLE)."""


class DeadlineExceeded(RequestError):
    """The call did not finish in time. A session holds the state after the last character that arrived.

    CLIENT_IDLE is an observation or a conversation whose client sent nothing for as long as the server allows.
    """


class Cancelled(RequestError):
    """The call was cancelled. A session holds the state after the last character that arrived."""


class PermissionDenied(RequestError):
    """The state belongs to somebody else (SEALED_STATE_OF_ANOTHER_TENANT)."""


class Unauthenticated(RequestError):
    """The server wants credentials."""


class Unimplemented(RequestError):
    """The server does not offer this call; it may be of another version, or no Charloom server."""


class DataLoss(RequestError):
    """Stored state is damaged, or an exported one cannot be opened (SEALED_STATE_CORRUPT)."""


class InternalError(RequestError):
    """A fault of the server; its log has the id that the message names."""


_CLASSES: dict[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.INTERNAL: InternalError,
}
_CLASSES_BY_REASON: dict[str, type[RequestError]] = {
    "SESSION_EXPIRED": SessionExpired,
    "POSITION_NOT_KEPT": PositionNotKept,
    "QUOTA_EXCEEDED": QuotaExceeded,
}

# gRPC's own words for these say neither what happened nor what to do.
_PLAIN_WORDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "the call did not finish before its deadline; allow it a longer timeout",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
}


# What gRPC and proxies give a call that they lost. An answer of the server's own has an ErrorInfo.
_BREAKS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
# Also under other codes, by the error code of HTTP/2. After the deadline it is how a server takes note of that.
_RESET = "RST_STREAM"

_TOO_LARGE = re.compile(
    r"(?P<side>CLIENT|SERVER): (?P<way>Received|Sent) message larger than max \((?P<size>\d+) vs\.? (?P<limit>\d+)\)"
)
_HEADERS_TOO_LARGE = re.compile(r"metadata size exceeds \w+ limit \(\D*(?P<size>\d+) vs\.? (?P<limit>\d+)\)")
_STREAM_FREE = 0.1
"""Seconds after which one of a thousand calls may have ended."""
_STREAM_REFUSED = re.compile(r"RST_STREAM with error code 7\b")
"""REFUSED_STREAM of HTTP/2: the other side has not looked at the call."""
_REFUSED_BY_PROXY = re.compile(r"\bstatus: 413\b")


def from_rpc_error(error: grpc.RpcError, target: str, *, stopped: bool = False, request_id: str = "") -> CharloomError:
    """Turn what gRPC raised, blocking or asyncio, into one of the classes above.

    Args:
        error: of gRPC.
        target: the server's address, for the message.
        stopped: whether the caller had cancelled the call, or closed the client.
        request_id: that the call was given; an answer that names another one is right.

    """
    details = _details(error)
    answered = details.pop("request_id", "")
    failure = _read(error, details, target, stopped=stopped)
    failure.request_id = answered or request_id
    return failure


def _read(error: grpc.RpcError, details: dict[str, Any], target: str, *, stopped: bool) -> CharloomError:
    code = error.code()
    message = error.details() or ""
    reason = details.pop("reason", "")
    if not reason:
        foreign = (
            _too_large(code, message)
            or _stream_refused(code, message)
            or _broken(code, message, target, stopped=stopped)
        )
        if foreign is not None:
            return foreign
        message = _PLAIN_WORDS.get(code, message)
    kind = _CLASSES_BY_REASON.get(reason) or _CLASSES.get(code, RequestError)
    return kind(message, code=code, reason=reason, **details)


def _broken(code: grpc.StatusCode, message: str, target: str, *, stopped: bool) -> ConnectionFailed | None:
    """The error of a call that nobody ended who may; `None` if it is not one."""
    if code is grpc.StatusCode.CANCELLED and stopped:
        return None
    if code is grpc.StatusCode.UNAVAILABLE:
        return ConnectionFailed(
            f"no answer from {target} ({message}); is a server running there, and is the address host:port "
            f"or unix:PATH?{_tls_hint(message)}{_target.proxy_hint(target)}"
        )
    if code in _BREAKS or (_RESET in message and code is not grpc.StatusCode.DEADLINE_EXCEEDED):
        return ConnectionFailed(f"the connection to {target} broke ({code.name}: {message})")
    return None


# In gRPC's words about a connection that came to nothing, and what it may be about.
_TLS_PROBLEMS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS; leave tls out",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not valid, or from an authority that ca does not name",
    "Hostname Verification": "the server's certificate is for another name than the target's",
    "Socket closed": "if the server speaks TLS: is tls on, and does it want a certificate of the client?",
}


def _tls_hint(message: str) -> str:
    return next((f" ({hint}.)" for words, hint in _TLS_PROBLEMS.items() if words in message), "")


def _stream_refused(code: grpc.StatusCode, message: str) -> Overloaded | None:
    """The error of a call beyond those that one connection may have at a time; `None` if it is not one."""
    if not _STREAM_REFUSED.search(message):
        return None
    return Overloaded(
        "the connection has as many calls as the server lets one have (its --max-streams), and this one was not begun; "
        "make fewer at a time, or use another client as well",
        code=code,
        retry_after=_STREAM_FREE,
    )


def _too_large(code: grpc.StatusCode, message: str) -> MessageTooLarge | None:
    """The error of a message or of headers above a limit of gRPC's or a proxy's; `None` if it is not one."""
    found = _TOO_LARGE.search(message)
    if found:
        what = "answer" if (found["side"], found["way"]) in {("CLIENT", "Received"), ("SERVER", "Sent")} else "request"
        whose = "this client" if found["side"] == "CLIENT" else "the server"
    else:
        found = _HEADERS_TOO_LARGE.search(message)
        what, whose = "metadata", "the other side"
    if found:
        size, limit = found["size"], found["limit"]
        text = f"the {what} has {size} bytes, and {whose} takes at most {limit}"
        return MessageTooLarge(text, code=code, metadata={"size": size, "limit": limit})
    if _REFUSED_BY_PROXY.search(message):
        return MessageTooLarge(f"the request is larger than a proxy takes ({message})", code=code)
    return None


def cancelled(request_id: str = "") -> Cancelled:
    """The error of a call that its own caller cancelled."""
    code = grpc.StatusCode.CANCELLED
    failure = Cancelled(_PLAIN_WORDS[code], code=code)
    failure.request_id = request_id
    return failure


def _details(error: Any) -> dict[str, Any]:
    """What the status carries besides code and message; damaged or foreign details are as good as none."""
    found: dict[str, Any] = {}
    try:
        status = rpc_status.from_call(error)
    except (ValueError, google.protobuf.message.DecodeError):
        return {}
    for detail in status.details if status else ():
        found.update(_detail(detail))
    return found


def _detail(detail: Any) -> dict[str, Any]:
    info = error_details_pb2.ErrorInfo()
    if detail.Unpack(info):
        return {"reason": info.reason, "metadata": dict(info.metadata)} if info.domain == DOMAIN else {}
    fields = error_details_pb2.BadRequest()
    if detail.Unpack(fields):
        return {"violations": tuple((one.field, one.description) for one in fields.field_violations)}
    request = error_details_pb2.RequestInfo()
    if detail.Unpack(request):
        return {"request_id": request.request_id}
    retry = error_details_pb2.RetryInfo()
    if detail.Unpack(retry):
        return {"retry_after": retry.retry_delay.ToNanoseconds() / 1e9}
    return {}
