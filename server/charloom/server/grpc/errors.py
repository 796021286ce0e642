"""From the engine's errors to gRPC statuses: the table of codes, and the interceptor that applies it to every call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import ServerInterceptor
from grpc_status import rpc_status

from charloom.engine.errors import EngineError, InvalidRequest
from charloom.engine.telemetry import current_call, running_call
from charloom.server import codes
from charloom.server.codes import OK, UNEXPECTED
from charloom.server.grpc.request_wait import RequestWait
from charloom.server.telemetry.calls import REQUEST_ID_KEY

log = logging.getLogger(__name__)

DOMAIN = "charloom"
END_SECONDS = 0.005
"""How long after gRPC reports the end of a stream's requests that end is passed on to the handler."""
CHECK_SECONDS = 2.0
"""How often the caller's permission is checked while a call waits for its client's next request."""
HEALTH_BYTES, HEALTH_SECONDS = 1024, 10.0
"""The most bytes of a health request, and seconds that it may take to arrive: anybody may make such a call."""
REQUEST_SECONDS = 60.0
"""Seconds that the single request of any other call may take to arrive."""
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

CODES = {kind: grpc.StatusCode[code.name] for kind, code in codes.CODES.items()}


def status_of(problem: EngineError) -> status_pb2.Status:
    """The status of an engine error, with its details."""
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=problem.facts)
    ]
    if isinstance(problem, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.problem)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if problem.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(problem.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(CODES[problem.kind], str(problem), details)


def _status(code: grpc.StatusCode, text: str, details: list[message.Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=text, details=packed)


CANCELLED = status_pb2.Status(code=grpc.StatusCode.CANCELLED.value[0], message="the call was cancelled")
DEADLINE_EXCEEDED = status_pb2.Status(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="the call did not end before its deadline"
)


def failure_of(problem: Exception) -> status_pb2.Status:
    """Make the status for an exception that ends the call in this task, and enter it in the call's record."""
    status = status_of(problem) if isinstance(problem, EngineError) else _incident(problem)
    call = running_call()
    if call is not None:
        reason = problem.reason if isinstance(problem, EngineError) else UNEXPECTED
        call.failed(_NAMES[status.code], reason)
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=call.request_id))
    _let_go(problem)
    return status


async def _fail(context: Any, problem: Exception) -> NoReturn:
    status = failure_of(problem)
    call = running_call()
    trailing = () if call is None else ((REQUEST_ID_KEY, call.request_id),)
    told = rpc_status.to_status(status)
    try:
        await context.abort(told.code, told.details, (*told.trailing_metadata, *trailing))
    except grpc.aio.AbortError:
        raise
    except Exception:  # the client has gone
        raise asyncio.CancelledError from None
    raise AssertionError("abort raises")


def _let_go(problem: BaseException) -> None:
    """Drop the traceback of an exception that has been reported.

    It is often in a reference cycle with a frame that it passed through, by a task that this one awaited. The objects
    of such frames, such as a request that is too large, would stay in memory until garbage is collected.
    """
    problem.__traceback__ = None
    if (earlier := problem.__cause__ or problem.__context__) is not None:
        _let_go(earlier)


def _incident(problem: Exception) -> status_pb2.Status:
    incident = secrets.token_hex(8)
    log.error("unexpected error %s", incident, exc_info=problem)
    info = error_details_pb2.ErrorInfo(reason=UNEXPECTED, domain=DOMAIN, metadata={"incident": incident})
    return _status(grpc.StatusCode.INTERNAL, f"unexpected error; the server's log has it as {incident}", [info])


Check = Callable[[], None]
"""Raises if the caller of a running call would not be let in any more."""
Begin = Callable[[str, Any], Check]
"""Called with method and context in the task of a call, before its handler runs; may refuse the call."""


class ErrorInterceptor(ServerInterceptor):
    """Turns every exception of a handler, and every malformed request, into a status with details.

    A handler may also answer with the bytes of its message.

    Args:
        begin: called at the beginning of each call, before its request is read. The check that it returns is called
            once the request has arrived; if the client streams, before each request and reply, and now and then while
            the call waits for a request
        largest_request: returns the most bytes of a request that is read now; a message takes many times its bytes in
            memory
    """

    def __init__(self, begin: Begin, largest_request: Callable[[], int]) -> None:
        self._begin = begin
        self._largest_request = largest_request
        self._wait = RequestWait()
        self._wrapped: dict[str, tuple[Any, grpc.RpcMethodHandler[Any, Any]]] = {}
        """By method: the handler that was wrapped last, and its wrapper."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one call."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            begin = functools.partial(self._begin, method)
            known = self._wrapped[method] = handler, _wrapped(handler, method, begin, self._largest_request, self._wait)
        return known[1]


def _wrapped(
    handler: Any, method: str, begin: Callable[[Any], Check], largest: Callable[[], int], wait: RequestWait
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wrap the handler of a method, so that its errors become statuses."""
    read, write = handler.request_deserializer, _unless_bytes(handler.response_serializer)
    if method.startswith("/grpc.reflection."):
        read = _lenient(read)  # it answers an empty request with an error of its own
    health = method.startswith("/grpc.health.")  # answers everybody, and its request is only a name
    read = _bounded(read, (lambda: HEALTH_BYTES) if health else largest)
    # Requests arrive as bytes and are parsed here, so that malformed ones get the right error. For a unary request,
    # gRPC would receive all of it before it calls the handler. So every method is registered as client-streaming: until
    # its call has begun, no more of a message arrives than flow control lets through.
    if handler.request_streaming:
        # The client decides when such a call ends, so the call may outlive the client's credentials.
        behaviour = _streaming(handler.stream_stream, functools.partial(_each, read), begin, many=True)
        return grpc.stream_stream_rpc_method_handler(behaviour, None, write)
    one = functools.partial(_one, read, wait, health)
    if not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(_answering(handler.unary_unary, one, begin), None, write)
    return grpc.stream_stream_rpc_method_handler(_streaming(handler.unary_stream, one, begin), None, write)


Read = Callable[[bytes], message.Message]


def _answering(behaviour: Any, take: Callable[[Any, Check], Any], begin: Callable[[Any], Check]) -> Any:
    async def answer(_: object, context: Any) -> Any:
        try:
            reply = await behaviour(await take(context, begin(context)), context)
            current_call().code = OK
            return reply
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:  # nothing can be sent: the client has gone
            raise asyncio.CancelledError from None
        except Exception as problem:
            failure = problem
        try:
            return await _fail(context, failure)
        finally:
            del failure  # it has this frame, and what the call used

    return answer


def _streaming(
    behaviour: Any, take: Callable[[Any, Check], Any], begin: Callable[[Any], Check], *, many: bool = False
) -> Any:
    async def stream(_: object, context: Any) -> AsyncIterator[Any]:
        try:
            check = begin(context)
            asked = take(context, check)
            answers = behaviour(asked if many else await asked, context)
            del asked
            async with contextlib.aclosing(answers) as replies:
                async for reply in replies:
                    if many:
                        check()
                    yield reply
            current_call().code = OK
            return
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:  # nothing can be sent: the client has gone
            raise asyncio.CancelledError from None
        except Exception as problem:
            failure = problem
        try:
            await _fail(context, failure)
        finally:
            del failure  # it has this frame, and what the call used

    return stream


def _bounded(read: Read, largest: Callable[[], int]) -> Read:
    def bounded(request: bytes) -> message.Message:
        if len(request) > (most := largest()):
            raise InvalidRequest("request", f"it has {len(request)} bytes; up to {most} are read")
        return read(request)

    return bounded


def _unless_bytes(write: Callable[[message.Message], bytes]) -> Callable[[message.Message | bytes], bytes]:
    return lambda answer: answer if isinstance(answer, bytes) else write(answer)


class _Wait:
    """Context around each wait of a task: interrupts the wait once `check` refuses the call, and raises its error.

    It cancels the task while that waits. A task for each request would take more time, and a task that keeps reading
    could lose a request.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._refused: Exception | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._look_later()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        self._task = None
        refused, self._refused = self._refused, None
        if refused is not None and kind is asyncio.CancelledError:
            raise refused from None

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._look)

    def _look(self) -> None:
        try:
            self._check()
        except Exception as problem:
            self._refused = problem
            if self._task is not None:
                self._task.cancel()
        else:
            self._look_later()


async def _one(read: Read, wait: RequestWait, health: bool, context: Any, check: Check) -> message.Message:
    """Read the request of a unary call. A client that has gone, or sends none, gets no answer, as in gRPC itself."""
    request = await wait.read(context, HEALTH_SECONDS if health else REQUEST_SECONDS)
    check()
    if request is grpc.aio.EOF:
        raise asyncio.CancelledError
    return _parsed(read, request)


async def _each(read: Read, context: Any, check: Check) -> AsyncIterator[message.Message]:
    """Read the requests of a stream from its context, because gRPC's own iterator keeps the last one, of up to
    `max_message_bytes`, until garbage is collected, unless it is read to its end.

    A call that is cancelled also reads an end, and its task is cancelled a moment later. Without the pause, a handler
    whose requests have ended could finish as if it had served its client.
    """
    wait = _Wait(check)
    while True:
        with wait:
            request = await context.read()
        if request is grpc.aio.EOF:
            break
        check()
        yield _parsed(read, request)
    await asyncio.sleep(END_SECONDS)


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
