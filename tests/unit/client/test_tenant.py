"""Whose sessions a client uses travels with every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from charloom.client import AsyncClient, Client, InvalidValue
from tests.unit.client.fake_answers import breaking, in_turn, stream
from tests.unit.client.fake_server import FakeServer

KEY = "charloom-tenant"
CALLS: dict[str, Callable[[Client], Any]] = {
    "Generate": lambda client: client.generate("Hi").result(),
    "CreateSession": lambda client: client.session(),
    "ListSessions": lambda client: list(client.sessions()),
    "ListModels": lambda client: client.models(),
    "Score": lambda client: client.score("Hi"),
    "Observe": lambda client: client.observe().close(),
    "Inspect": lambda client: client.inspect("Hi"),
    "Converse": lambda client: next(client.converse()),
    "Check": lambda client: client.health(),
}


@pytest.mark.parametrize(("method", "call"), CALLS.items())
def test_every_call_names_it(server: FakeServer, method: str, call: Callable[[Client], Any]) -> None:
    with Client(server.target, tenant="acme 7") as client:
        call(client)
    assert server.headers[method][KEY] == "acme 7"


def test_several_continuations_and_resumed_calls_name_it(server: FakeServer) -> None:
    with Client(server.target, tenant="acme") as client:
        client.continuations("Hi", n=2).completions()
        assert server.headers.pop("Generate")[KEY] == "acme"
        server.answers["Generate"] = in_turn(breaking(1, grpc.StatusCode.UNAVAILABLE, "lost"), stream)
        client.generate("Hi").result()
    assert len(server.asked("Generate")) == 3
    assert server.headers["Generate"][KEY] == "acme"


async def test_both_kinds_of_client_name_it(server: FakeServer, make: Callable[..., Any]) -> None:
    async with make(server.target, tenant="acme") as client:
        await client.generate("Hi").result()
        await client.continuations("Hi", n=1).completions()
        await client.complete("Hi")
        await client.health()
        async with client.observe() as observer:
            await observer.read("a")
        async with client.converse() as talk:
            await talk.close()
            assert [event async for event in talk]
    methods = {name for name, _ in server.calls}
    assert methods == {"Generate", "Check", "Observe", "Converse"}
    assert {server.headers[method].get(KEY) for method in methods} == {"acme"}


def test_without_one_nothing_is_said(server: FakeServer, client: Client) -> None:
    client.complete("Hi")
    assert KEY not in server.headers["Generate"]


@pytest.mark.parametrize(
    ("tenant", "words"),
    [
        ("café", "tenant: the character 'é' at 3 is not printable ASCII"),
        ("a\nb", r"tenant: the character '\n' at 1 is not printable ASCII"),
        (7, "tenant: 7 is not a string"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_tenant_that_no_header_carries_is_refused(kind: Any, tenant: Any, words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        kind("127.0.0.1:1", tenant=tenant)
    assert str(caught.value) == words
