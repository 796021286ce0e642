"""GenerateMany: the messages for calls that share a stream, and the error that each call ended with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.rpc import status_pb2  # type: ignore[import-untyped,unused-ignore]
from grpc_status import rpc_status

from charloom.client._connection import CallContext
from charloom.client._errors import CharloomError
from charloom.v1 import generation_pb2

LARGEST = 2**16
"""Most bytes of a request on a shared stream; a larger one gets a stream of its own, so that it delays no other."""
MOST_AT_ONCE = 100
"""Most calls that one message begins, and most that it cancels; the server takes ten times as many."""
BATCH_BYTES = 2**20
"""Most bytes of the calls that one message begins. The server takes twice as many; above, it ends the whole stream."""
AGE = 60.0
"""Seconds after which new calls get a new stream: so that they can use another connection, and that few calls reach a
stream that its server is just ending because it is idle."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


def call_of(
    number: int, request: generation_pb2.GenerateRequest, seconds: float | None, context: CallContext
) -> generation_pb2.GenerateCall:
    """Make the message of one call on a shared stream; `seconds` is its deadline, or None."""
    call = generation_pb2.GenerateCall(
        number=number, request=request, request_id=context.request_id, trace=dict(context.trace)
    )
    if seconds is not None:
        call.timeout.FromNanoseconds(int(seconds * 1e9))
    return call


def taken(
    begun: dict[int, generation_pb2.GenerateCall], cancelled: list[int]
) -> Iterator[generation_pb2.GenerateManyRequest]:
    """Yield messages that begin the calls of `begun`, by number, and cancel those of `cancelled`; empties both."""
    while begun or cancelled:
        first: list[generation_pb2.GenerateCall] = []
        room = BATCH_BYTES
        for call in itertools.islice(begun.values(), MOST_AT_ONCE):
            if (room := room - call.ByteSize()) < 0 and first:
                break
            first.append(call)
        for call in first:
            del begun[call.number]
        message = generation_pb2.GenerateManyRequest(calls=first, cancel=cancelled[:MOST_AT_ONCE])
        del cancelled[:MOST_AT_ONCE]
        yield message


def is_leaving(message: generation_pb2.GenerateManyResponse) -> bool:
    """Whether the server says that it is stopping or takes no calls for now; new calls may find another server."""
    return any(end.code == _UNAVAILABLE for end in message.ends) or any(
        piece.response.HasField("result")
        and piece.response.result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
        for piece in message.pieces
    )


def failure_of(end: generation_pb2.GenerateEnd) -> grpc.RpcError | None:
    """The error that gRPC would have raised for a call that ended like this; `None` for success."""
    if not end.code:
        return None
    code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    status = status_pb2.Status(code=code.value[0], message=end.message, details=end.details)
    return _error(code, end.message, rpc_status.to_status(status).trailing_metadata)


def failure_of_stream(problem: CharloomError | None) -> grpc.RpcError:
    """Make the error for a call whose stream ended before it; `problem` is the stream's error, if it had one."""
    cause: Any = None if problem is None else problem.__cause__
    if cause is None and problem is not None:
        return call_cancelled()
    # The stream has no deadline: the server ends an idle one with this code, so it had not received this call yet.
    if cause is None or cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _error(grpc.StatusCode.UNAVAILABLE, "the server closed the stream of the call")
    text = cause.details()
    if cause.code() is grpc.StatusCode.UNIMPLEMENTED:
        text = f"the server is older than shared streams; leave shared_stream out ({text})"
    return _error(cause.code(), text, cause.trailing_metadata() or ())


def call_cancelled() -> grpc.RpcError:
    """The error that gRPC would raise for a call that the client cancelled."""
    return _error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")


def deadline_exceeded() -> grpc.RpcError:
    """The error that gRPC would raise for a call whose deadline has passed."""
    return _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def _error(code: grpc.StatusCode, text: str, trailing: Iterable[tuple[str, str | bytes]] = ()) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), text)
