"""From engine errors to gRPC statuses: one table, and one place that applies it.

Knows: status codes, `google.rpc` error details. Does not know: what the calls do.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc.aio import ServerInterceptor

from charloom.engine.errors import (
    DecoderFailure,
    Draining,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    ModelNotInspectable,
    Overloaded,
    PositionNotKept,
    ReaderStalled,
    SealedStateCorrupt,
    SealedStateExpired,
    SealedStateOfAnotherModel,
    SealedStateOfAnotherTenant,
    SealedStateVersion,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    SessionOfAnotherModel,
    SessionTakenOver,
    StalePosition,
    StoreFull,
    StoreUnavailable,
)

log = logging.getLogger(__name__)

DOMAIN = "charloom"

STATUS_OF: dict[type[EngineError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    ModelNotInspectable: grpc.StatusCode.FAILED_PRECONDITION,
    SessionNotFound: grpc.StatusCode.NOT_FOUND,
    SessionExpired: grpc.StatusCode.NOT_FOUND,
    SessionDeleted: grpc.StatusCode.NOT_FOUND,
    SessionExists: grpc.StatusCode.ALREADY_EXISTS,
    SessionOfAnotherModel: grpc.StatusCode.FAILED_PRECONDITION,
    SessionBusy: grpc.StatusCode.ABORTED,
    SessionTakenOver: grpc.StatusCode.ABORTED,
    StalePosition: grpc.StatusCode.ABORTED,
    PositionNotKept: grpc.StatusCode.OUT_OF_RANGE,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SealedStateCorrupt: grpc.StatusCode.DATA_LOSS,
    SealedStateVersion: grpc.StatusCode.INVALID_ARGUMENT,
    SealedStateExpired: grpc.StatusCode.FAILED_PRECONDITION,
    SealedStateOfAnotherTenant: grpc.StatusCode.PERMISSION_DENIED,
    SealedStateOfAnotherModel: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ReaderStalled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Draining: grpc.StatusCode.UNAVAILABLE,
    DecoderFailure: grpc.StatusCode.INTERNAL,
}


def status_of(problem: EngineError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The status of an engine error, with its details."""
    code = STATUS_OF[type(problem)]
    info = error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN)
    if isinstance(problem, SessionBusy | StalePosition):
        info.metadata["position"] = str(problem.position)
    if isinstance(problem, PositionNotKept):
        info.metadata["position"], info.metadata["earliest"] = str(problem.position), str(problem.earliest)
    if isinstance(problem, SessionExpired | SessionDeleted | SealedStateExpired):
        info.metadata["time"] = problem.at.isoformat()
    details: list[message.Message] = [info]
    if isinstance(problem, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.problem)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(problem, Overloaded | StoreFull):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(problem.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return code, _status(code, str(problem), details)


def _status(code: grpc.StatusCode, text: str, details: list[message.Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    number: int = code_pb2.Code.Value(code.name)
    return status_pb2.Status(code=number, message=text, details=packed)


async def _abort(context: Any, code: grpc.StatusCode, status: status_pb2.Status) -> NoReturn:
    trailer = (("grpc-status-details-bin", status.SerializeToString()),)
    try:
        await context.abort(code, status.message, trailing_metadata=trailer)
    except grpc.aio.AbortError:
        raise
    except Exception:  # the client has gone, there is nobody left to tell
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")


async def _fail(context: Any, problem: Exception) -> NoReturn:
    if type(problem) in STATUS_OF:
        assert isinstance(problem, EngineError)
        code, status = status_of(problem)
        await _abort(context, code, status)
    incident = secrets.token_hex(8)
    log.error("unexpected error %s", incident, exc_info=problem)
    info = error_details_pb2.ErrorInfo(reason="UNEXPECTED", domain=DOMAIN, metadata={"incident": incident})
    code = grpc.StatusCode.INTERNAL
    await _abort(context, code, _status(code, f"unexpected error; the server's log has it as {incident}", [info]))


class ErrorInterceptor(ServerInterceptor):
    """Turns every exception of a handler, and every malformed request, into a status with details."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one call."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        read, write = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming and handler_call_details.method.startswith("/grpc.reflection."):
            # It answers an empty request with an error of its own.
            return grpc.stream_stream_rpc_method_handler(handler.stream_stream, _lenient(read), write)
        # Requests arrive as bytes and are read in here, so that malformed ones are answered as what they are.
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_streaming(handler.stream_stream, _each(read)), None, write)
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(_answering(handler.unary_unary, read), None, write)
        if inspect.isasyncgenfunction(handler.unary_stream):
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, lambda request: _parsed(read, request)), None, write
            )
        # Health's Watch writes to its context instead of yielding.
        return grpc.unary_stream_rpc_method_handler(_answering(handler.unary_stream, read), None, write)


Read = Callable[[bytes], message.Message]


def _answering(behaviour: Any, read: Read) -> Any:
    async def answer(request: bytes, context: Any) -> Any:
        try:
            return await behaviour(_parsed(read, request), context)
        except grpc.aio.AbortError:
            raise
        except Exception as problem:
            failure = problem
        return await _fail(context, failure)

    return answer


def _streaming(behaviour: Any, read: Callable[[Any], Any]) -> Any:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for reply in behaviour(read(request), context):
                yield reply
            return
        except grpc.aio.AbortError:
            raise
        except Exception as problem:
            failure = problem
        await _fail(context, failure)

    return stream


def _each(read: Read) -> Callable[[AsyncIterator[bytes]], AsyncIterator[message.Message]]:
    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[message.Message]:
        async for request in requests:
            yield _parsed(read, request)

    return parsed


def _parsed(read: Read, request: bytes) -> message.Message:
    try:
        return read(request)
    except (message.DecodeError, ValueError) as problem:
        raise InvalidRequest("request", f"it is not a message of this method: {problem}") from problem


def _lenient(read: Read) -> Read:
    def read_or_empty(request: bytes) -> message.Message:
        try:
            return read(request)
        except (message.DecodeError, ValueError):
            return read(b"")

    return read_or_empty
