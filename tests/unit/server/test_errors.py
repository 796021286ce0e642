from __future__ import annotations

from datetime import datetime, timezone

import grpc
import pytest
from google.rpc import error_details_pb2

from charloom.engine import errors
from charloom.server.grpc.errors import STATUS_OF, status_of

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
EXAMPLES: list[errors.EngineError] = [
    errors.InvalidRequest("max_tokens", "0 is not allowed"),
    errors.ModelNotFound("x", ["a", "b"]),
    errors.ModelNotInspectable("a", "inspector.onnx"),
    errors.SessionNotFound("s"),
    errors.SessionExpired("s", MOMENT),
    errors.SessionDeleted("s", MOMENT),
    errors.SessionExists("s"),
    errors.SessionOfAnotherModel("s", "a", "b"),
    errors.SessionBusy("s", 7),
    errors.SessionTakenOver("s"),
    errors.StalePosition("s", 3, 7),
    errors.PositionNotKept(3, 4, 7),
    errors.StoreUnavailable("refused"),
    errors.StoreFull("no memory"),
    errors.SealedStateCorrupt("it is not what was sealed"),
    errors.SealedStateVersion(2, 1),
    errors.SealedStateExpired(MOMENT),
    errors.SealedStateOfAnotherTenant(),
    errors.SealedStateOfAnotherModel("m", "0123"),
    errors.Overloaded("full", 1.5),
    errors.ReaderStalled(),
    errors.Draining(),
    errors.DecoderFailure("broke"),
]


def all_errors(base: type[errors.EngineError] = errors.EngineError) -> set[type[errors.EngineError]]:
    return {base, *(found for child in base.__subclasses__() for found in all_errors(child))}


def test_the_table_is_complete() -> None:
    assert set(STATUS_OF) == all_errors() - {errors.EngineError} == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("problem", EXAMPLES, ids=lambda problem: type(problem).__name__)
def test_every_status_carries_reason_and_domain(problem: errors.EngineError) -> None:
    code, status = status_of(problem)
    assert status.code == code.value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (problem.reason, "charloom")
    assert status.message == str(problem)


def test_reasons_are_distinct() -> None:
    assert len({problem.reason for problem in EXAMPLES}) == len(EXAMPLES)


def test_a_bad_field_is_named() -> None:
    _, status = status_of(EXAMPLES[0])
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("max_tokens", "0 is not allowed")]


def test_overload_says_when_to_try_again() -> None:
    code, status = status_of(errors.Overloaded("full", 1.5))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry.retry_delay.ToNanoseconds() == 1_500_000_000


def test_an_expired_session_says_when() -> None:
    _, status = status_of(errors.SessionExpired("s", MOMENT))
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.metadata["time"] == MOMENT.isoformat()


def test_a_conflict_says_the_position() -> None:
    for problem in (errors.SessionBusy("s", 7), errors.StalePosition("s", 3, 7)):
        info = error_details_pb2.ErrorInfo()
        status_of(problem)[1].details[0].Unpack(info)
        assert info.metadata["position"] == "7"
