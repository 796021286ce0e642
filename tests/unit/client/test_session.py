from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from charloom.client import (
    AsyncClient,
    Client,
    Conflict,
    ConnectionFailed,
    InternalError,
    InvalidValue,
    NotFound,
    Session,
    SessionExpired,
)
from charloom.v1 import sessions_pb2
from tests.unit.client.fake_answers import PIECES, TEXT, error_info, failing, session
from tests.unit.client.fake_server import FakeServer

GONE = failing(grpc.StatusCode.NOT_FOUND, "expired", error_info("SESSION_EXPIRED"))
BUSY = failing(grpc.StatusCode.ABORTED, "in use", error_info("SESSION_BUSY"))
FAULT = failing(grpc.StatusCode.INTERNAL, "fault", error_info("UNEXPECTED"))


def test_a_session_is_made_at_once_and_deleted_at_the_end(server: FakeServer, client: Client) -> None:
    with client.session(model="small", id="mine", seed=0, time_to_live=90) as opened:
        assert (opened.id, opened.info.seed) == ("mine", 2**64 - 1)
        assert server.asked("CreateSession") == [
            sessions_pb2.CreateSessionRequest(
                model="small", session_id="mine", seed=0, time_to_live=duration_pb2.Duration(seconds=90)
            )
        ]
        assert server.asked("DeleteSession") == []
    assert server.asked("DeleteSession") == [sessions_pb2.DeleteSessionRequest(session_id="mine")]


def test_opening_a_session_that_is_gone_fails_at_once(server: FakeServer, client: Client) -> None:
    server.answers["GetSession"] = GONE
    with pytest.raises(SessionExpired):
        client.open_session("old")


def test_the_client_chooses_the_id_of_a_session_that_its_first_text_makes(server: FakeServer, client: Client) -> None:
    assert len({client.session(at_first_text=True).id for _ in range(3)}) == 3
    assert server.calls == []
    with pytest.raises(InvalidValue, match="at_first_text"):
        client.session(at_first_text=True, start="other")


def test_no_server_no_session(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(ConnectionFailed):
        client.session()


class Beginning:
    """A call that runs; while it is cancelled, another one begins in its session, as in another thread."""

    def __init__(self, session: Session, others: list[Beginning]) -> None:
        self._session, self._others = session, others
        self.cancelled = False
        session._started(self)

    def cancel(self) -> None:
        self.cancelled = True
        self._others.append(Beginning(self._session, self._others))


def test_a_session_ends_while_calls_begin(client: Client) -> None:
    others: list[Beginning] = []
    with client.session() as opened:
        running = [Beginning(opened, others) for _ in range(3)]
    assert [one.cancelled for one in running] == [True] * 3


class TestEither:
    async def test_a_session_is_made_by_its_first_text(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(
            at_first_text=True, id="mine", model="small", seed=5, time_to_live=90, keep=True
        ) as opened:
            assert opened.id == "mine"
            with pytest.raises(RuntimeError, match="made by the first text"):
                _ = opened.info
            await opened.complete("Hi")
            assert opened.info.id == "mine"
            await opened.complete("Ho", seed=6)
        assert [name for name, _ in server.calls] == ["Generate", "Generate"]
        first, second = (request.options for request in server.asked("Generate"))
        assert (first.session_id, first.model, first.seed) == ("mine", "small", 5)
        assert first.new_session.time_to_live == duration_pb2.Duration(seconds=90)
        assert (second.session_id, second.model, second.seed) == ("mine", "", 6)
        assert not second.HasField("new_session")

    async def test_a_session_that_is_kept_is_not_deleted(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(keep=True):
            pass
        assert server.asked("DeleteSession") == []

    async def test_an_existing_session_is_looked_up_and_kept(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.open_session("old") as opened:
            assert opened.id == "old"
        assert [name for name, _ in server.calls] == ["GetSession"]

    async def test_calls_go_on_from_the_session_and_expect_no_position(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.session(id="mine") as opened:
            assert (await opened.generate("Hi", temperature=0.5).result()).session is not None
            assert (await opened.complete("Ho", seed=3)).text == TEXT
        for request in server.asked("Generate"):
            assert request.options.session_id == "mine"
            assert not request.options.HasField("expected_position")

    async def test_a_position_is_expected_where_it_is_given(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session() as opened:
            await opened.complete("Hi", expected_position=0)
        assert server.asked("Generate")[0].options.HasField("expected_position")

    async def test_info_follows_the_results(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(id="mine") as opened:
            assert (opened.info.position, opened.info.version) == (0, 0)
            await opened.generate("Hi").result()
            assert (opened.info.position, opened.info.version) == (19, 1)
            server.answers["GetSession"] = lambda request, _: sessions_pb2.GetSessionResponse(
                session=session("mine", position=40, version=2)
            )
            assert (await opened.refresh()).position == 40
            assert opened.info.version == 2
            await opened.complete("Hi")
            assert opened.info.version == 1

    async def test_deleting_by_hand_is_enough(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(id="mine") as opened:
            assert (await opened.delete()).session.id == "mine"
        assert len(server.asked("DeleteSession")) == 1

    async def test_a_session_that_is_gone_already_ends_quietly(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["DeleteSession"] = GONE
        async with either.session():
            pass
        assert len(server.asked("DeleteSession")) == 1

    async def test_a_failed_deletion_is_told(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["DeleteSession"] = FAULT
        with pytest.raises(InternalError, match="fault"):
            async with either.session():
                pass

    async def test_a_failed_deletion_does_not_hide_the_error_of_the_block(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["DeleteSession"] = FAULT
        with pytest.raises(ZeroDivisionError):
            async with either.session():
                raise ZeroDivisionError

    async def test_a_session_that_stays_in_use_is_told(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["DeleteSession"] = BUSY
        with pytest.raises(Conflict, match="in use"):
            async with either.session():
                pass

    async def test_leaving_ends_what_is_still_running(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        async with either.session() as opened:
            stream = opened.generate("Hi")
            assert await anext(stream) == PIECES[0]
        assert await asyncio.to_thread(server.ended.wait, 30)
        assert len(server.asked("DeleteSession")) == 1

    async def test_cleaning_up_has_a_deadline_of_its_own(self, server: FakeServer, make: Callable[..., Any]) -> None:
        async with make(server.target, timeout=None) as client, client.session():
            pass
        assert (server.remaining["DeleteSession"] or 99) < 6

    async def test_a_client_that_closes_first_leaves_the_session_to_its_expiry(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.session():
            await either.close()
        assert server.asked("DeleteSession") == []


class TestAsyncio:
    async def test_a_session_is_made_on_entering_and_deleted_at_the_end(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        unopened = async_client.session(id="mine", seed=0)
        assert server.calls == []
        with pytest.raises(RuntimeError, match="not open yet"):
            unopened.generate("Hi")
        async with unopened as opened:
            assert (opened.id, opened.info.position) == ("mine", 0)
            assert (await opened.generate("Hi").result()).session is not None
            assert opened.info.position == 19
            assert (await opened.complete("Ho")).text == TEXT
            assert (await opened.refresh()).position == 0
        assert [name for name, _ in server.calls] == [
            "CreateSession",
            "Generate",
            "Generate",
            "GetSession",
            "DeleteSession",
        ]
        assert {request.options.session_id for request in server.asked("Generate")} == {"mine"}

    async def test_a_session_may_be_awaited_and_is_made_once(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        opened = await async_client.session(id="mine", keep=True)
        async with opened:
            assert opened.id == "mine"
        assert [name for name, _ in server.calls] == ["CreateSession"]

    async def test_a_refused_session_is_an_error_on_entering(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["CreateSession"] = failing(grpc.StatusCode.NOT_FOUND, "no model", error_info("MODEL_NOT_FOUND"))
        with pytest.raises(NotFound, match="no model"):
            async with async_client.session(model="none"):
                raise AssertionError("the block must not run")
