from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from charloom import client as sdk
from charloom.client import AsyncClient, Client
from charloom.client._statuses import from_rpc_error
from tests.unit.client.fake_answers import error_info, failing
from tests.unit.client.fake_server import FakeServer

CODE = grpc.StatusCode
KINDS = [
    (CODE.INVALID_ARGUMENT, "INVALID_REQUEST", sdk.InvalidArgument),
    (CODE.NOT_FOUND, "SESSION_NOT_FOUND", sdk.NotFound),
    (CODE.NOT_FOUND, "SESSION_EXPIRED", sdk.SessionExpired),
    (CODE.ALREADY_EXISTS, "SESSION_EXISTS", sdk.AlreadyExists),
    (CODE.FAILED_PRECONDITION, "SESSION_OF_ANOTHER_MODEL", sdk.FailedPrecondition),
    (CODE.ABORTED, "SESSION_BUSY", sdk.Conflict),
    (CODE.ABORTED, "STALE_POSITION", sdk.Conflict),
    (CODE.ABORTED, "SESSION_TAKEN_OVER", sdk.Conflict),
    (CODE.OUT_OF_RANGE, "POSITION_NOT_KEPT", sdk.PositionNotKept),
    (CODE.FAILED_PRECONDITION, "SEALED_STATE_EXPIRED", sdk.FailedPrecondition),
    (CODE.FAILED_PRECONDITION, "SEALED_STATE_OF_ANOTHER_MODEL", sdk.FailedPrecondition),
    (CODE.PERMISSION_DENIED, "SEALED_STATE_OF_ANOTHER_TENANT", sdk.PermissionDenied),
    (CODE.DATA_LOSS, "SEALED_STATE_CORRUPT", sdk.DataLoss),
    (CODE.INVALID_ARGUMENT, "SEALED_STATE_VERSION", sdk.InvalidArgument),
    (CODE.RESOURCE_EXHAUSTED, "STORE_FULL", sdk.Overloaded),
    (CODE.UNAVAILABLE, "STORE_UNAVAILABLE", sdk.Unavailable),
    (CODE.RESOURCE_EXHAUSTED, "OVERLOADED", sdk.Overloaded),
    (CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", sdk.QuotaExceeded),
    (CODE.UNAVAILABLE, "DRAINING", sdk.Unavailable),
    (CODE.DEADLINE_EXCEEDED, "LATE", sdk.DeadlineExceeded),
    (CODE.CANCELLED, "STOPPED", sdk.Cancelled),
    (CODE.PERMISSION_DENIED, "OTHER_TENANT", sdk.PermissionDenied),
    (CODE.UNAUTHENTICATED, "NO_TOKEN", sdk.Unauthenticated),
    (CODE.UNIMPLEMENTED, "LATER", sdk.Unimplemented),
    (CODE.DATA_LOSS, "CORRUPT", sdk.DataLoss),
    (CODE.INTERNAL, "UNEXPECTED", sdk.InternalError),
    (CODE.OUT_OF_RANGE, "OTHER", sdk.RequestError),
]
every_kind = pytest.mark.parametrize(("code", "reason", "kind"), KINDS)


@every_kind
@pytest.mark.usefixtures("impatient")
async def test_each_status_of_a_call_is_an_error_of_its_own_kind(
    server: FakeServer, either: AsyncClient, code: grpc.StatusCode, reason: str, kind: type[sdk.RequestError]
) -> None:
    details = error_info(reason, position="7")
    server.answers["Generate"] = failing(code, "it went wrong", details)
    with pytest.raises(sdk.RequestError) as caught:
        await either.complete("Hi", timeout=None)
    with pytest.raises(sdk.RequestError) as streamed:
        await either.generate("Hi", resume=False).result()
    for error in (caught.value, streamed.value):
        assert type(error) is kind
        assert (error.code, error.reason, error.message) == (code, reason, "it went wrong")
        assert error.metadata == {"position": "7"}
        assert (error.violations, error.retry_after) == ((), None)
        assert str(error) == "it went wrong"


def test_a_stream_meets_its_error_at_every_look(server: FakeServer, client: Client) -> None:
    server.answers["Generate"] = failing(CODE.ABORTED, "in use", error_info("SESSION_BUSY"))
    stream = client.generate("Hi")
    for look in (lambda: next(stream), stream.result, lambda: next(stream)):
        with pytest.raises(sdk.Conflict, match="in use"):
            look()


def test_bad_fields_are_listed_with_their_faults(server: FakeServer, client: Client) -> None:
    fields = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="options.max_tokens", description="0 is below 1"),
            error_details_pb2.BadRequest.FieldViolation(field="options.prompt", description="'é' is unknown"),
        ]
    )
    server.answers["Generate"] = failing(CODE.INVALID_ARGUMENT, "max_tokens: 0 is below 1", error_info("BAD"), fields)
    with pytest.raises(sdk.InvalidArgument) as caught:
        client.complete("é", max_tokens=0)
    assert caught.value.violations == (("options.max_tokens", "0 is below 1"), ("options.prompt", "'é' is unknown"))
    assert str(caught.value) == "max_tokens: 0 is below 1; options.prompt: 'é' is unknown"


def test_the_suggested_pause_is_given_in_seconds(server: FakeServer, client: Client) -> None:
    pause = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    server.answers["Generate"] = failing(CODE.RESOURCE_EXHAUSTED, "full", error_info("OVERLOADED"), pause)
    with pytest.raises(sdk.Overloaded) as caught:
        client.complete()
    assert caught.value.retry_after == 1.5


def test_an_expired_session_is_also_not_found() -> None:
    assert issubclass(sdk.SessionExpired, sdk.NotFound)


def test_a_position_that_is_not_kept_is_told_with_the_earliest(server: FakeServer, client: Client) -> None:
    info = error_info("POSITION_NOT_KEPT", position="7", earliest="1200")
    server.answers["RewindSession"] = failing(CODE.OUT_OF_RANGE, "position 7 is no longer kept", info)
    with client.session() as session, pytest.raises(sdk.PositionNotKept, match="no longer kept") as caught:
        session.rewind(7)
    assert (caught.value.position, caught.value.earliest) == (7, 1200)


@pytest.mark.parametrize("said", [{}, {"position": "", "earliest": "soon"}])
def test_a_server_that_does_not_say_which_position_leaves_it_open(said: dict[str, str]) -> None:
    error = sdk.PositionNotKept("gone", metadata=said)
    assert (error.position, error.earliest) == (None, None)


def test_nobody_listening_names_the_address_and_what_to_check(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(sdk.ConnectionFailed, match=rf"{nobody}.*is a server running there"):
        client.complete()


def test_unavailable_without_details_is_a_broken_connection(server: FakeServer, client: Client) -> None:
    server.answers["ListModels"] = failing(CODE.UNAVAILABLE, "Socket closed")  # a text would be asked for again
    with pytest.raises(sdk.ConnectionFailed, match="Socket closed"):
        client.models()


def test_details_of_another_domain_are_not_taken_for_charlooms(server: FakeServer, client: Client) -> None:
    foreign = error_details_pb2.ErrorInfo(reason="SESSION_EXPIRED", domain="proxy.example")
    server.answers["Generate"] = failing(CODE.NOT_FOUND, "no such route", foreign)
    with pytest.raises(sdk.NotFound) as caught:
        client.complete()
    assert type(caught.value) is sdk.NotFound
    assert caught.value.reason == ""


def test_damaged_details_leave_the_status() -> None:
    error = grpc.aio.AioRpcError(
        CODE.ABORTED,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")),
        details="in use",
    )
    read = from_rpc_error(error, "somewhere")
    assert type(read) is sdk.Conflict
    assert str(read) == "in use"


def test_a_call_without_metadata_is_read() -> None:
    read = from_rpc_error(grpc.aio.AioRpcError(CODE.DATA_LOSS, None, None, details=None), "somewhere")
    assert type(read) is sdk.DataLoss
    assert str(read) == "DATA_LOSS"


def test_a_deadline_says_what_to_do(server: FakeServer, client: Client) -> None:
    server.answers["Generate"] = server.answer_and_wait
    with pytest.raises(sdk.DeadlineExceeded, match="longer timeout"):
        client.generate("Hi", timeout=0.2).result()


@pytest.mark.parametrize(
    "error",
    [
        sdk.Conflict("busy", code=CODE.ABORTED, reason="SESSION_BUSY", metadata={"position": "3"}, retry_after=1.0),
        sdk.ConnectionFailed("nobody"),
        sdk.PositionNotKept("gone", code=CODE.OUT_OF_RANGE, metadata={"position": "7", "earliest": "9"}),
        sdk.InvalidValue("seed", "negative"),
    ],
)
def test_errors_survive_the_way_between_processes(error: sdk.CharloomError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


class TestSizes:
    """What is too large is never taken for a server with too much work: trying again would not help."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"grpc.max_receive_message_length": 30}, r"the answer has \d+ bytes, and this client takes at most 30"),
            ({"grpc.max_send_message_length": 3}, r"the request has \d+ bytes, and this client takes at most 3"),
        ],
    )
    async def test_limits_of_the_client(
        self, server: FakeServer, make: Callable[..., Any], options: dict[str, int], words: str
    ) -> None:
        async with make(server.target, channel_options=list(options.items())) as client:
            for call in (client.score("Hello"), client.continuations("Hi", n=2).completions(), client.model("small")):
                with pytest.raises(sdk.MessageTooLarge, match=words) as caught:
                    await call
                assert caught.value.limit in options.values()
                assert caught.value.size is not None
                assert caught.value.size > caught.value.limit

    @pytest.mark.parametrize(
        ("code", "said", "words"),
        [
            (CODE.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 8)", "request.*the server.* 8$"),
            (CODE.RESOURCE_EXHAUSTED, "SERVER: Sent message larger than max (9 vs. 8)", "answer.*the server.* 8$"),
            (CODE.UNKNOWN, "Received http2 header with status: 413", "larger than a proxy takes"),
        ],
    )
    async def test_limits_of_others(
        self, server: FakeServer, either: AsyncClient, code: grpc.StatusCode, said: str, words: str
    ) -> None:
        server.answers["Score"] = failing(code, said)
        with pytest.raises(sdk.MessageTooLarge, match=words) as caught:
            await either.score("Hi")
        assert caught.value.code is code
        assert len(server.asked("Score")) == 1

    async def test_metadata(self, server: FakeServer, make: Callable[..., Any]) -> None:
        async with make(server.target, tenant="x" * 20_000) as client:
            with pytest.raises(sdk.MessageTooLarge, match="the metadata has 20000 bytes") as caught:
                await client.models()
        assert (caught.value.size, caught.value.limit) == (20_000, 16_384)
