"""Each call has an id, which its error names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from charloom.cli.main import main
from charloom.client import (
    AsyncClient,
    Cancelled,
    CharloomError,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidValue,
    NotFound,
    request_id,
)
from tests.unit.client.fake_answers import breaking, error_info, failing, in_turn, stream
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.test_tenant import CALLS
from tests.unit.client.twins import with_and_without

shared_stream = with_and_without

KEY = "charloom-request-id"
CODE = grpc.StatusCode
GONE = failing(CODE.NOT_FOUND, "there is none", error_info("SESSION_NOT_FOUND"))


@pytest.mark.parametrize(("method", "call"), CALLS.items())
def test_every_call_has_one_of_its_own(server: FakeServer, method: str, call: Callable[[Client], Any]) -> None:
    seen = set()
    with Client(server.target) as client:
        for _ in range(2):
            call(client)
            seen.add(server.headers[method][KEY])
    assert len(seen) == 2
    assert {len(one) for one in seen} == {32}


@pytest.mark.parametrize(("method", "call"), CALLS.items())
def test_it_can_be_given(server: FakeServer, method: str, call: Callable[[Client], Any]) -> None:
    with Client(server.target) as client:
        with request_id("order-7"):
            call(client)
        assert server.headers[method][KEY] == "order-7"
        call(client)
    assert server.headers[method][KEY] != "order-7"


@pytest.mark.parametrize("id", ["", "a b", "x" * 129, "caf\u00e9", 7, "a\n"])
def test_one_that_no_log_can_hold_is_refused(id: Any) -> None:
    with pytest.raises(InvalidValue, match="request_id: "), request_id(id):
        pass


async def test_tasks_have_their_own(server: FakeServer) -> None:
    async def ask(client: AsyncClient, id: str) -> str:
        with request_id(id):
            await asyncio.sleep(0.01)
            with pytest.raises(NotFound) as caught:
                await client.complete("Hi")
        return caught.value.request_id

    server.answers["Generate"] = GONE
    async with AsyncClient(server.target) as client:
        assert await asyncio.gather(*(ask(client, f"task-{n}") for n in range(3))) == ["task-0", "task-1", "task-2"]


ERRORS: dict[str, Callable[[AsyncClient], Any]] = {
    "Generate": lambda client: client.complete("Hi"),
    "GetModel": lambda client: client.model("none"),
    "Inspect": lambda client: client.inspect("Hi"),
    "Observe": lambda client: read(client),
    "Converse": lambda client: talk(client),
}


async def read(client: AsyncClient) -> None:
    async with client.observe() as observer:
        await observer.read("a")


async def talk(client: AsyncClient) -> None:
    async with client.converse() as conversation:
        await anext(conversation)


@pytest.mark.parametrize(("method", "call"), ERRORS.items())
async def test_an_error_names_it(
    server: FakeServer, either: AsyncClient, method: str, call: Callable[[AsyncClient], Any]
) -> None:
    server.answers[method] = GONE
    with pytest.raises(NotFound) as caught:
        await call(either)
    assert caught.value.request_id == server.headers[method][KEY]
    assert caught.value.request_id in repr(caught.value)


async def test_the_one_that_the_server_names_is_right(server: FakeServer, either: AsyncClient) -> None:
    details = (error_info("SESSION_NOT_FOUND"), error_details_pb2.RequestInfo(request_id="of-the-proxy"))
    server.answers["Generate"] = failing(CODE.NOT_FOUND, "there is none", *details)
    for call in (either.complete("Hi"), either.continuations("Hi", n=2).completions()):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.request_id == "of-the-proxy"


async def test_a_call_that_got_no_answer_has_one_too(server: FakeServer, either: AsyncClient) -> None:
    server.answers["Generate"] = server.answer_and_wait
    with request_id("late"), pytest.raises(DeadlineExceeded) as late:
        await either.complete("Hi", timeout=0.3)
    assert late.value.request_id == "late"


async def test_one_that_its_caller_gives_up_has_one_too(server: FakeServer, either: AsyncClient) -> None:
    server.answers["Generate"] = server.answer_and_wait
    with request_id("given-up"):
        text = either.generate("Hi")
    await anext(text)
    text.cancel()
    with pytest.raises(Cancelled) as cancelled:
        await text.result()
    assert cancelled.value.request_id == "given-up"


async def test_one_that_is_resumed_keeps_it(server: FakeServer, either: AsyncClient) -> None:
    server.answers["Generate"] = in_turn(breaking(1, CODE.UNAVAILABLE, "lost"), stream)
    with request_id("first"):
        text = either.generate("Hi")
    await text.result()
    assert len(server.asked("Generate")) == 2
    assert server.headers["Generate"][KEY] == "first"


def test_commands_print_it_where_a_server_knows_it(
    server: FakeServer, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Generate"] = GONE
    assert main(["generate", "Hi", "--target", server.target]) == 1
    id = server.headers["Generate"][KEY]
    assert capsys.readouterr().err == f"charloom generate: there is none [request {id}]\n"
    assert main(["generate", "Hi", "--target", nobody]) == 1
    assert "[request" not in capsys.readouterr().err


def test_an_error_without_a_call_has_none(client: Client) -> None:
    with pytest.raises(CharloomError) as caught:
        client.generate("Hi", seed=-1)
    assert caught.value.request_id == ""
    assert "request_id" not in repr(caught.value)
    assert repr(ConnectionFailed("nobody")) == "ConnectionFailed('nobody')"
