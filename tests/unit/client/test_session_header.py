"""Which session a call is about travels with it, so that a proxy can keep a session with one server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from charloom.client import AsyncClient, AsyncSession
from tests.unit.client.fake_server import SERVICES, FakeServer

KEY = "charloom-session"


async def _all(coming: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in coming]


CALLS: dict[str, Callable[[AsyncClient, AsyncSession], Any]] = {
    "Generate": lambda _, session: session.complete("Hi"),
    "Converse": lambda _, session: anext(session.converse("Hi")),
    "Score": lambda _, session: session.score("Hi"),
    "ScoreMany": lambda _, session: _all(session.score_many(["Hi"])),
    "Peek": lambda _, session: session.peek("Hi"),
    "Observe": lambda _, session: session.observe().read("Hi"),
    "Inspect": lambda _, session: session.inspect("Hi"),
    "Rank": lambda _, session: session.rank(["Hi", "Ho"]),
    "Suggest": lambda _, session: session.suggest("H"),
    "CreateSession": lambda client, _: client.session(id="s1", keep=True),
    "ImportSession": lambda client, _: client.import_session(b"sealed", id="s1", keep=True),
    "BlendSessions": lambda client, _: client.blend({"s2": 1, "s3": 1}, id="s1", keep=True),
    "GetSession": lambda _, session: session.refresh(),
    "UpdateSession": lambda _, session: session.renew(),
    "FeedSession": lambda _, session: session.feed("Hi"),
    "RewindSession": lambda _, session: session.rewind(0),
    "MoveSession": lambda _, session: session.move(),
    "ForkSession": lambda _, session: session.fork(keep=True),
    "ExportSession": lambda _, session: session.export(),
    "DeleteSession": lambda _, session: session.delete(),
}
"""Every call that names a session, with session s1."""
NOT_IN_THE_SDK = {"Complete"}


def _names_a_session(request: Descriptor) -> bool:
    parts = [field.message_type for field in request.fields if field.message_type is not None]
    return any("session_id" in one.fields_by_name for one in (request, *parts))


def _methods() -> Iterator[str]:
    for messages, (_, service) in SERVICES.items():
        for method in messages.DESCRIPTOR.services_by_name[service].methods:
            if _names_a_session(method.input_type):
                yield method.name


def test_no_call_is_forgotten() -> None:
    assert set(_methods()) - NOT_IN_THE_SDK == CALLS.keys()


@pytest.mark.parametrize(("method", "call"), CALLS.items())
async def test_every_call_says_it(
    server: FakeServer, either: AsyncClient, method: str, call: Callable[[AsyncClient, AsyncSession], Any]
) -> None:
    session = await either.session(id="s1", keep=True)
    server.headers.clear()
    await call(either, session)
    assert server.headers[method][KEY] == "s1"


async def test_without_a_session_nothing_is_said(server: FakeServer, either: AsyncClient) -> None:
    await either.complete("Hi")
    await either.rank(["Hi", "Ho"])
    await either.observe().read("Hi")
    await either.watch("logs").read([("a", "b")])
    assert all(KEY not in headers for headers in server.headers.values())
    assert server.headers.keys() == {"Generate", "Rank", "Observe", "Watch"}
