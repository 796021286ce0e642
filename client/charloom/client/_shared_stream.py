"""GenerateMany: what is sent of calls that share a stream, and how each of them ended."""

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
"""Bytes of a request that goes on a shared stream; a larger one gets a stream of its own, and holds nobody up."""
MOST_AT_ONCE = 100
"""Calls that one message begins, and that it cancels; the server takes ten times as many."""
BATCH_BYTES = 2**20
"""Of the calls that one message begins; the server reads twice as many, and ends the whole stream at a larger one."""
AGE = 60.0
"""Seconds after which new calls get a new stream: so that their connection can be another one, and that few of them
come to a stream that its server is just ending because it is not used."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


def call_of(
    number: int, request: generation_pb2.GenerateRequest, seconds: float | None, context: CallContext
) -> generation_pb2.GenerateCall:
    """A call among those of a stream, with a deadline in seconds if it has one."""
    call = generation_pb2.GenerateCall(
        number=number, request=request, request_id=context.request_id, trace=dict(context.trace)
    )
    if seconds is not None:
        call.timeout.FromNanoseconds(int(seconds * 1e9))
    return call


def taken(
    begun: dict[int, generation_pb2.GenerateCall], cancelled: list[int]
) -> Iterator[generation_pb2.GenerateManyRequest]:
    """Messages that begin some calls, by number, and cancel others that were begun before; both are taken out."""
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
    """Whether the server says that it is stopping, or takes no calls for now: further ones may find another server."""
    return any(end.code == _UNAVAILABLE for end in message.ends) or any(
        piece.response.HasField("result")
        and piece.response.result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
        for piece in message.pieces
    )


def failure_of(end: generation_pb2.GenerateEnd) -> grpc.RpcError | None:
    """What gRPC would have raised for a call that ended so; `None` where all is well."""
    if not end.code:
        return None
    code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    status = status_pb2.Status(code=code.value[0], message=end.message, details=end.details)
    return _error(code, end.message, rpc_status.to_status(status).trailing_metadata)


def failure_of_stream(problem: CharloomError | None) -> grpc.RpcError:
    """What a call of a stream ends with that ended before it, with this error or without; each has one of its own."""
    cause: Any = None if problem is None else problem.__cause__
    if cause is None and problem is not None:
        return call_cancelled()
    # The stream has no deadline; a server ends one so where it sees no calls, so this one was still on its way there.
    if cause is None or cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _error(grpc.StatusCode.UNAVAILABLE, "the server closed the stream of the call")
    text = cause.details()
    if cause.code() is grpc.StatusCode.UNIMPLEMENTED:
        text = f"the server is older than shared streams; leave shared_stream out ({text})"
    return _error(cause.code(), text, cause.trailing_metadata() or ())


def call_cancelled() -> grpc.RpcError:
    """What gRPC would raise for a call that its own side has cancelled."""
    return _error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")


def deadline_exceeded() -> grpc.RpcError:
    """What gRPC would raise for a call whose deadline has passed."""
    return _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def _error(code: grpc.StatusCode, text: str, trailing: Iterable[tuple[str, str | bytes]] = ()) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), text)
