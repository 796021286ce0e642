"""Maps errors of gRPC to those of the SDK: the one table from status codes to classes."""

from __future__ import annotations

import re
from typing import Any

import google.protobuf.message
import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped,unused-ignore]
from grpc_status import rpc_status

from charloom.client import _target
from charloom.client._errors import (
    AlreadyExists,
    Cancelled,
    CharloomError,
    Conflict,
    ConnectionFailed,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    MessageTooLarge,
    NotFound,
    Overloaded,
    PermissionDenied,
    PositionNotKept,
    QuotaExceeded,
    RequestError,
    SessionExpired,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

DOMAIN = "charloom"

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

# Replaces gRPC's own words, which say neither what happened nor what to do.
_PLAIN_WORDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "the call did not finish before its deadline; allow it a longer timeout",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
}


# Codes by which gRPC and proxies report a lost call. The server's own errors have an ErrorInfo.
_BREAKS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
# An HTTP/2 reset is a lost call under other codes too, except after the deadline, when a server resets the stream.
_RESET = "RST_STREAM"

_TOO_LARGE = re.compile(
    r"(?P<side>CLIENT|SERVER): (?P<way>Received|Sent) message larger than max \((?P<size>\d+) vs\.? (?P<limit>\d+)\)"
)
_HEADERS_TOO_LARGE = re.compile(r"metadata size exceeds \w+ limit \(\D*(?P<size>\d+) vs\.? (?P<limit>\d+)\)")
_STREAM_FREE = 0.1
"""Seconds to wait until one of a thousand calls on the connection may have ended."""
_STREAM_REFUSED = re.compile(r"RST_STREAM with error code 7\b")
"""REFUSED_STREAM of HTTP/2: the other side has not processed the call."""
_REFUSED_BY_PROXY = re.compile(r"\bstatus: 413\b")


def from_rpc_error(error: grpc.RpcError, target: str, *, stopped: bool = False, request_id: str = "") -> CharloomError:
    """Turn an error of gRPC, blocking or asyncio, into one of the classes of `_errors`.

    Args:
        error: the error.
        target: the server's address, for the message.
        stopped: whether the caller had cancelled the call, or closed the client.
        request_id: the id that the client gave the call; an id in the server's answer takes precedence.

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
    """The error of a call that neither the caller nor the server ended; `None` if it is not one."""
    if code is grpc.StatusCode.CANCELLED and stopped:
        return None
    if code is grpc.StatusCode.UNAVAILABLE:
        known = next((cause for words, cause in _TLS_PROBLEMS.items() if words in message), None)
        if known is not None:
            return ConnectionFailed(f"{known} ({target}: {message})")
        closed = _CLOSED_HINT if "Socket closed" in message else ""
        return ConnectionFailed(
            f"no answer from {target} ({message}); is a server running there, and is the address host:port "
            f"or unix:PATH?{closed}{_target.proxy_hint(target)}"
        )
    if code in _BREAKS or (_RESET in message and code is not grpc.StatusCode.DEADLINE_EXCEEDED):
        return ConnectionFailed(f"the connection to {target} broke ({code.name}: {message})")
    return None


# Phrases in gRPC's messages about failed connections, and their causes.
_TLS_PROBLEMS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS; leave tls out",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not valid, or from an authority that ca does not name",
    "Hostname Verification": "the server's certificate is for another name than the target's; call it by a name that "
    "is in it",
}
_CLOSED_HINT = " (if the server speaks TLS: is tls on, and does it want a certificate of the client?)"


def _stream_refused(code: grpc.StatusCode, message: str) -> Overloaded | None:
    """The error of a call above the number that one connection may have at a time; `None` if it is not one."""
    if not _STREAM_REFUSED.search(message):
        return None
    return Overloaded(
        "the connection has as many calls as the server lets one have (its --max-streams), and this one was not begun; "
        "make fewer at a time, or use another client as well",
        code=code,
        retry_after=_STREAM_FREE,
    )


def _too_large(code: grpc.StatusCode, message: str) -> MessageTooLarge | None:
    """The error of a message or headers above a limit of gRPC or a proxy; `None` if it is not one."""
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
    """Read the details of the status besides code and message; damaged or foreign ones count as none."""
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
