from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest

from charloom.bundle import Task
from charloom.engine import errors
from charloom.engine.memory_budget import TooMuchMemory
from charloom.engine.model_errors import (
    CallOfAnotherModel,
    LastModel,
    ModelBusy,
    ModelOfAnotherTask,
    ModelRetired,
    ModelTooLarge,
    ModelUnusable,
)
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.telemetry import CallRecord, set_call
from charloom.server.audit import AuditLogUnavailable
from charloom.server.codes import OK
from charloom.server.group import ProcessRefused
from charloom.server.grpc import errors as grpc_errors
from charloom.server.grpc.errors import CODES, ErrorInterceptor, status_of
from charloom.server.identity.errors import CredentialsInvalid, CredentialsMissing, ScopeMissing, TenantNotAllowed
from charloom.server.inference.inference import SequenceNotStarted, VersionNotFound
from charloom.server.model_changes import ModelPathForbidden

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
STATUSES: list[tuple[errors.EngineError, StatusCode]] = [
    (errors.InvalidRequest("max_tokens", "0 is not allowed"), StatusCode.INVALID_ARGUMENT),
    (errors.ModelNotFound("x", ["a", "b"]), StatusCode.NOT_FOUND),
    (errors.ModelNotInspectable("a", "inspector.onnx"), StatusCode.FAILED_PRECONDITION),
    (errors.SessionNotFound("s"), StatusCode.NOT_FOUND),
    (errors.SessionExpired("s", MOMENT), StatusCode.NOT_FOUND),
    (errors.SessionDeleted("s", MOMENT), StatusCode.NOT_FOUND),
    (errors.SessionExists("s"), StatusCode.ALREADY_EXISTS),
    (errors.SessionOfAnotherModel("s", "a", "b"), StatusCode.FAILED_PRECONDITION),
    (errors.SessionBusy("s", 7), StatusCode.ABORTED),
    (errors.SessionTakenOver("s"), StatusCode.ABORTED),
    (errors.StalePosition("s", 3, 7), StatusCode.ABORTED),
    (errors.PositionNotKept(3, 4, 7), StatusCode.OUT_OF_RANGE),
    (errors.StoreUnavailable("refused"), StatusCode.UNAVAILABLE),
    (errors.StoreFull("no memory"), StatusCode.RESOURCE_EXHAUSTED),
    (errors.SealedStateCorrupt("it is not what was sealed"), StatusCode.DATA_LOSS),
    (errors.SealedStateVersion(3, (1, 2)), StatusCode.INVALID_ARGUMENT),
    (errors.SealedStateExpired(MOMENT), StatusCode.FAILED_PRECONDITION),
    (errors.SealedStateOfAnotherTenant(), StatusCode.PERMISSION_DENIED),
    (errors.SealedStateOfAnotherModel("m", "0123"), StatusCode.FAILED_PRECONDITION),
    (errors.Overloaded("full", 1.5), StatusCode.RESOURCE_EXHAUSTED),
    (TooMuchMemory(2**31, 2**30), StatusCode.RESOURCE_EXHAUSTED),
    (ModelRetired("session 's'", "m", "0123", "move it"), StatusCode.FAILED_PRECONDITION),
    (ModelBusy("m"), StatusCode.ABORTED),
    (ModelUnusable("there is no manifest.json"), StatusCode.FAILED_PRECONDITION),
    (ModelTooLarge("m", 2**31, 2**20, 2**30), StatusCode.RESOURCE_EXHAUSTED),
    (LastModel("m"), StatusCode.FAILED_PRECONDITION),
    (CallOfAnotherModel("0123", "4567"), StatusCode.FAILED_PRECONDITION),
    (ModelOfAnotherTask("m", Task.CLASSIFICATION, Task.LANGUAGE_MODEL, ["n"]), StatusCode.FAILED_PRECONDITION),
    (ProcessRefused("model 'm' is being loaded"), StatusCode.FAILED_PRECONDITION),
    (ModelPathForbidden("/etc"), StatusCode.PERMISSION_DENIED),
    (VersionNotFound("m", "2", "1"), StatusCode.NOT_FOUND),
    (SequenceNotStarted("s"), StatusCode.INVALID_ARGUMENT),
    (QuotaExceeded("calls", 3, "3 calls of yours are running", "wait"), StatusCode.RESOURCE_EXHAUSTED),
    (errors.ReaderStalled(), StatusCode.RESOURCE_EXHAUSTED),
    (errors.ClientIdle(60), StatusCode.DEADLINE_EXCEEDED),
    (CredentialsMissing(), StatusCode.UNAUTHENTICATED),
    (CredentialsInvalid("the key is not known here"), StatusCode.UNAUTHENTICATED),
    (ScopeMissing("inspect"), StatusCode.PERMISSION_DENIED),
    (TenantNotAllowed("it is another's"), StatusCode.PERMISSION_DENIED),
    (AuditLogUnavailable("no space"), StatusCode.UNAVAILABLE),
    (errors.Draining(), StatusCode.UNAVAILABLE),
    (errors.DecoderFailure("broke"), StatusCode.INTERNAL),
]
EXAMPLES = [problem for problem, _ in STATUSES]


def all_errors(base: type[errors.EngineError] = errors.EngineError) -> set[type[errors.EngineError]]:
    return {base, *(found for child in base.__subclasses__() for found in all_errors(child))}


def test_every_error_has_a_kind_and_every_kind_a_code() -> None:
    assert all_errors() - {errors.EngineError} == {type(example) for example in EXAMPLES}
    assert {example.kind for example in EXAMPLES} == set(errors.ErrorKind) == set(CODES)


def test_every_kind_has_a_code_of_its_own() -> None:
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize(("problem", "code"), STATUSES, ids=lambda value: type(value).__name__)
def test_every_status_carries_code_reason_and_domain(problem: errors.EngineError, code: StatusCode) -> None:
    status = status_of(problem)
    assert status.code == code.value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (problem.reason, "charloom")
    assert status.message == str(problem)


def test_reasons_are_distinct() -> None:
    assert len({problem.reason for problem in EXAMPLES}) == len(EXAMPLES)


def test_a_bad_field_is_named() -> None:
    status = status_of(EXAMPLES[0])
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("max_tokens", "0 is not allowed")]


def test_overload_says_when_to_try_again() -> None:
    status = status_of(errors.Overloaded("full", 1.5))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToNanoseconds() == 1_500_000_000


def test_an_expired_session_says_when() -> None:
    status = status_of(errors.SessionExpired("s", MOMENT))
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.metadata["time"] == MOMENT.isoformat()


def test_a_conflict_says_the_position() -> None:
    for problem in (errors.SessionBusy("s", 7), errors.StalePosition("s", 3, 7)):
        info = error_details_pb2.ErrorInfo()
        status_of(problem).details[0].Unpack(info)
        assert info.metadata["position"] == "7"


def test_a_position_that_is_not_kept_says_which_are() -> None:
    info = error_details_pb2.ErrorInfo()
    status_of(errors.PositionNotKept(3, 4, 7)).details[0].Unpack(info)
    assert (info.metadata["position"], info.metadata["earliest"]) == ("3", "4")


async def test_a_client_that_has_gone_before_its_answer_leaves_nothing_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def behaviour(request: object, context: object) -> None:
        raise grpc.aio.InternalError("execute_batch")

    async def continuation(details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(behaviour, HealthCheckRequest.FromString)

    details = cast(grpc.HandlerCallDetails, SimpleNamespace(method="/grpc.health.v1.Health/Check"))
    handler: Any = await ErrorInterceptor(lambda method, context: lambda: None, lambda: 1000).intercept_service(
        continuation, details
    )
    with pytest.raises(asyncio.CancelledError):
        await handler.stream_unary(None, Sent(b""))
    assert caplog.records == []


class Sent:
    """The context of a call whose client sends these bytes; what it is told at the end is in `aborted`."""

    def __init__(self, request: object) -> None:
        self._request = request
        self.aborted: list[tuple[StatusCode, str]] = []

    async def read(self) -> object:
        return self._request

    async def abort(self, code: StatusCode, details: str, trailing: object) -> None:
        self.aborted.append((code, details))
        raise grpc.aio.AbortError


async def test_more_than_a_name_is_not_read_as_a_request_of_health() -> None:
    async def behaviour(request: object, context: object) -> object:
        return request

    async def continuation(details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(behaviour, HealthCheckRequest.FromString)

    details = cast(grpc.HandlerCallDetails, SimpleNamespace(method="/grpc.health.v1.Health/Check"))
    interceptor = ErrorInterceptor(lambda method, context: lambda: None, lambda: 10**6)
    handler: Any = await interceptor.intercept_service(continuation, details)
    name = HealthCheckRequest(service="x" * 1000)
    assert await handler.stream_unary(None, Sent(name.SerializeToString())) == name
    name.service *= 2
    sent = Sent(name.SerializeToString())
    with pytest.raises(grpc.aio.AbortError):
        await handler.stream_unary(None, sent)
    ((code, text),) = sent.aborted
    assert code is StatusCode.INVALID_ARGUMENT
    assert "up to 1024 are read" in text
    with pytest.raises(asyncio.CancelledError):  # as gRPC does: nobody is answered who sends none
        await handler.stream_unary(None, Sent(grpc.aio.EOF))


@pytest.mark.parametrize("when", ["before it comes", "while it is waited for"])
async def test_a_caller_who_is_not_let_in_any_more_has_no_request_carried_out(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:
        async def read(self) -> Any:
            if when == "while it is waited for":
                await asyncio.Event().wait()
            return b""

        async def abort(self, code: StatusCode, details: str, trailing: object) -> None:
            aborted.append((code, details))
            raise grpc.aio.AbortError

    async def behaviour(requests: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        carried_out.append(await asyncio.ensure_future(anext(requests, None)))
        yield carried_out[-1]

    async def continuation(details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.stream_stream_rpc_method_handler(behaviour, HealthCheckRequest.FromString)

    def check() -> None:
        raise refusal

    monkeypatch.setattr(grpc_errors, "CHECK_SECONDS", 0.001)
    refusal = CredentialsInvalid("the key that you show is revoked")
    aborted: list[tuple[StatusCode, str]] = []
    carried_out: list[Any] = []
    details = cast(grpc.HandlerCallDetails, SimpleNamespace(method="/charloom.v1.WatchingService/Watch"))
    interceptor = ErrorInterceptor(lambda method, context: check, lambda: 1000)
    handler: Any = await interceptor.intercept_service(continuation, details)
    with pytest.raises(grpc.aio.AbortError):
        async for _ in handler.stream_stream(None, Connection()):
            pass
    assert aborted == [(StatusCode.UNAUTHENTICATED, str(refusal))]
    assert carried_out == []


async def test_a_stream_that_is_cancelled_is_not_taken_for_one_whose_requests_have_ended() -> None:
    """To its task both are an end of the requests; that of a cancelled one is cancelled a moment later."""

    class Cancelled:
        async def read(self) -> Any:
            asyncio.get_running_loop().call_later(0.001, task.cancel)
            return grpc.aio.EOF

    async def behaviour(requests: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    async def continuation(details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.stream_stream_rpc_method_handler(behaviour, HealthCheckRequest.FromString)

    async def run() -> None:
        set_call(call)
        async for _ in handler.stream_stream(None, Cancelled()):
            pass

    details = cast(grpc.HandlerCallDetails, SimpleNamespace(method="/grpc.health.v1.Health/Check"))
    interceptor = ErrorInterceptor(lambda method, context: lambda: None, lambda: 1000)
    handler: Any = await interceptor.intercept_service(continuation, details)
    call = CallRecord("Health/Check")
    task = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.code != OK
