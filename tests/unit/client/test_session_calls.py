"""What a session can do besides generating, and the sessions that come of others; blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from charloom.client import (
    AlreadyExists,
    AsyncClient,
    CharloomError,
    Client,
    ConnectionFailed,
    DataLoss,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    InvalidValue,
    NotFound,
    Origin,
    SealedState,
)
from charloom.v1 import sessions_pb2, text_pb2
from tests.unit.client.fake_answers import error_info, failing, session
from tests.unit.client.fake_server import FakeServer

CODE = grpc.StatusCode
Client_ = Any
"""A client of either kind, or a session."""


def blocking(target: str, use: Callable[[Client_], Any]) -> Any:
    with Client(target) as client:
        return use(client)


def asynchronous(target: str, use: Callable[[Client_], Any]) -> Any:
    async def run() -> Any:
        async with AsyncClient(target) as client:
            answer = use(client)
            return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(run())


def blocking_in(target: str, use: Callable[[Client_], Any]) -> Any:
    with Client(target) as client, client.session(id="s1", keep=True) as opened:
        answer = use(opened)
        return answer, opened.info


def asynchronous_in(target: str, use: Callable[[Client_], Any]) -> Any:
    async def run() -> Any:
        async with AsyncClient(target) as client, client.session(id="s1", keep=True) as opened:
            answer = await use(opened)
            return answer, opened.info

    return asyncio.run(run())


Run = Callable[[Callable[[Client_], Any]], Any]


@pytest.fixture(params=[blocking, asynchronous])
def run(request: pytest.FixtureRequest, server: FakeServer) -> Run:
    """Uses a client of either kind; what can be awaited is."""
    return lambda use: request.param(server.target, use)


@pytest.fixture(params=[blocking_in, asynchronous_in])
def run_in(request: pytest.FixtureRequest, server: FakeServer) -> Run:
    """Uses session s1 of a client of either kind; gives the answer and what the session knows of itself then."""
    return lambda use: request.param(server.target, use)


FULL: list[tuple[str, Callable[[Client_], Any], Any]] = [
    (
        "FeedSession",
        lambda one: one.feed("Hi", unknown_characters="skip", expected_position=0),
        sessions_pb2.FeedSessionRequest(
            session_id="s1", text="Hi", unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP, expected_position=0
        ),
    ),
    (
        "RewindSession",
        lambda one: one.rewind(7, seed=0, expected_position=9),
        sessions_pb2.RewindSessionRequest(session_id="s1", position=7, seed=0, expected_position=9),
    ),
    (
        "MoveSession",
        lambda one: one.move("big", unknown_characters="skip", expected_position=9),
        sessions_pb2.MoveSessionRequest(
            session_id="s1",
            model="big",
            unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP,
            expected_position=9,
        ),
    ),
    (
        "ForkSession",
        lambda one: one.fork(position=0, seed=0, id="copy", time_to_live=1.5),
        sessions_pb2.ForkSessionRequest(
            session_id="s1",
            position=0,
            seed=0,
            new_session_ids=["copy"],
            time_to_live=duration_pb2.Duration(seconds=1, nanos=500_000_000),
        ),
    ),
    (
        "ForkSession",
        lambda one: one.forks(2, position=5, seed=3, ids=["a", "b"], time_to_live=9),
        sessions_pb2.ForkSessionRequest(
            session_id="s1",
            position=5,
            count=2,
            seed=3,
            new_session_ids=["a", "b"],
            time_to_live=duration_pb2.Duration(seconds=9),
        ),
    ),
    (
        "UpdateSession",
        lambda one: one.renew(60),
        sessions_pb2.UpdateSessionRequest(session_id="s1", time_to_live=duration_pb2.Duration(seconds=60)),
    ),
    (
        "ExportSession",
        lambda one: one.export(60),
        sessions_pb2.ExportSessionRequest(session_id="s1", time_to_live=duration_pb2.Duration(seconds=60)),
    ),
]
BARE: list[tuple[str, Callable[[Client_], Any], Any]] = [
    ("FeedSession", lambda one: one.feed(""), sessions_pb2.FeedSessionRequest(session_id="s1")),
    ("RewindSession", lambda one: one.rewind(0), sessions_pb2.RewindSessionRequest(session_id="s1")),
    ("MoveSession", lambda one: one.move(), sessions_pb2.MoveSessionRequest(session_id="s1")),
    ("ForkSession", lambda one: one.fork(), sessions_pb2.ForkSessionRequest(session_id="s1")),
    ("ForkSession", lambda one: one.forks(1), sessions_pb2.ForkSessionRequest(session_id="s1", count=1)),
    ("UpdateSession", lambda one: one.renew(), sessions_pb2.UpdateSessionRequest(session_id="s1")),
    ("ExportSession", lambda one: one.export(), sessions_pb2.ExportSessionRequest(session_id="s1")),
    ("DeleteSession", lambda one: one.delete(), sessions_pb2.DeleteSessionRequest(session_id="s1")),
]


@pytest.mark.parametrize(("method", "use", "request_"), [*FULL, *BARE])
def test_what_is_asked_is_sent_and_nothing_else(
    server: FakeServer, run_in: Run, method: str, use: Callable[[Client_], Any], request_: Any
) -> None:
    run_in(use)
    assert server.asked(method) == [request_]
    assert [name for name, _ in server.calls] == ["CreateSession", method]


@pytest.mark.parametrize(
    ("use", "position", "version"),
    [
        (lambda one: one.feed("Hi"), 2, 1),
        (lambda one: one.rewind(7), 7, 2),
        (lambda one: one.move("big"), 0, 2),
        (lambda one: one.renew(60), 0, 2),
    ],
)
def test_a_session_learns_what_it_has_become(
    run_in: Run, use: Callable[[Client_], Any], position: int, version: int
) -> None:
    answer, known = run_in(use)
    assert answer == known
    assert (known.id, known.position, known.version) == ("s1", position, version)


@pytest.mark.parametrize("use", [lambda one: one.fork(position=9), lambda one: one.forks(2), lambda one: one.export()])
def test_a_session_that_stays_as_it_is_learns_nothing(run_in: Run, use: Callable[[Client_], Any]) -> None:
    _, known = run_in(use)
    assert (known.position, known.version) == (0, 0)


def test_an_export_is_bytes_and_a_time(run_in: Run) -> None:
    sealed, _ = run_in(lambda one: one.export())
    assert sealed == SealedState(
        state=b"\x00sealed\xff", expires=datetime(2023, 11, 14, 22, 23, 20, tzinfo=timezone.utc)
    )


def test_a_deletion_has_a_receipt(server: FakeServer, run: Run, run_in: Run) -> None:
    of_session, _ = run_in(lambda one: one.delete())
    by_id = run(lambda client: client.delete_session("s1"))
    assert of_session == by_id
    assert (by_id.session.id, by_id.deleted) == ("s1", datetime(2023, 11, 14, 22, 13, 22, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda one: one.feed(b"Hi"), "text: b'Hi' is not a string"),
        (lambda one: one.feed("Hi", unknown_characters="drop"), "unknown_characters: 'drop' is neither"),
        (lambda one: one.feed("Hi", expected_position=-1), "expected_position: -1 is not between"),
        (lambda one: one.rewind(-1), "position: -1 is not between"),
        (lambda one: one.rewind(1.5), "position: 1.5 is not a whole number"),
        (lambda one: one.rewind(1, seed=2**64), "seed: 18446744073709551616 is not between"),
        (lambda one: one.fork(id=5), "id: 5 is not a string"),
        (lambda one: one.fork(time_to_live=math.inf), "time_to_live: inf s is not a duration"),
        (lambda one: one.forks(2**32), "count: 4294967296 is not between"),
        (lambda one: one.forks(2, ids=["a", 5]), "ids[1]: 5 is not a string"),
        (lambda one: one.renew("long"), "time_to_live: 'long' is not a number"),
        (lambda one: one.export(math.nan), "time_to_live: nan s is not a duration"),
    ],
)
def test_what_no_message_can_carry_is_refused_by_name(
    server: FakeServer, run_in: Run, use: Callable[[Client_], Any], words: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        run_in(use)
    assert words in str(caught.value)
    assert [name for name, _ in server.calls] == ["CreateSession"]


class TestForks:
    def test_a_fork_is_a_session_of_its_own(self, server: FakeServer, client: Client) -> None:
        with client.session(id="s1", keep=True) as parent:
            with parent.fork(id="copy", position=4) as copy:
                assert (copy.id, copy.info.position) == ("copy", 4)
                assert copy.info.origin == Origin(session_id="parent", position=2)
                copy.complete("Hi")
            assert parent.info.position == 0
        assert server.asked("Generate")[0].options.session_id == "copy"
        assert [one.session_id for one in server.asked("DeleteSession")] == ["copy"]

    def test_a_fork_may_be_kept(self, server: FakeServer, client: Client) -> None:
        with client.session(keep=True) as parent, parent.fork(keep=True):
            pass
        assert server.asked("DeleteSession") == []

    def test_several_forks_are_made_in_one_call(self, server: FakeServer, client: Client) -> None:
        with client.session(keep=True) as parent:
            first, second = parent.forks(2, keep=True)
            with first, second:
                assert [first.id, second.id] == ["fork0", "fork1"]
            third, _ = parent.forks(2)
            with third:
                pass
        assert len(server.asked("ForkSession")) == 2
        assert [one.session_id for one in server.asked("DeleteSession")] == ["fork0"]

    def test_an_answer_with_a_fork_too_few_is_an_error(self, server: FakeServer, run_in: Run) -> None:
        server.answers["ForkSession"] = lambda _, __: sessions_pb2.ForkSessionResponse(sessions=[session("a")])
        with pytest.raises(InternalError, match="with 1 sessions where 2 were asked for"):
            run_in(lambda one: one.forks(2))

    async def test_an_asyncio_fork_is_made_when_it_is_entered_or_awaited(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with async_client.session(keep=True) as parent:
            unopened = parent.fork(id="copy")
            assert server.asked("ForkSession") == []
            async with unopened as copy:
                assert copy.id == "copy"
            assert (await parent.fork(id="other", keep=True)).id == "other"
            first, second = await parent.forks(2)
            assert [first.id, second.id] == ["fork0", "fork1"]
            async with first:
                assert (await first.complete("Hi")).text
        assert [one.session_id for one in server.asked("DeleteSession")] == ["copy", "fork0"]

    async def test_an_asyncio_session_that_is_not_open_cannot_be_forked(self, async_client: AsyncClient) -> None:
        with pytest.raises(RuntimeError, match="not open yet"):
            async_client.session().fork()


class TestStart:
    def test_a_session_may_start_where_another_stands(self, server: FakeServer, run: Run) -> None:
        run(lambda client: client.session(start="primed", id="mine", seed=7, time_to_live=5))
        assert server.calls == [
            (
                "ForkSession",
                sessions_pb2.ForkSessionRequest(
                    session_id="primed", seed=7, new_session_ids=["mine"], time_to_live=duration_pb2.Duration(seconds=5)
                ),
            )
        ]

    def test_it_draws_its_own_seed_and_is_deleted(self, server: FakeServer, client: Client) -> None:
        with client.session(start="primed") as opened:
            assert (opened.id, opened.restored_exactly) == ("fork0", None)
        assert server.asked("ForkSession") == [sessions_pb2.ForkSessionRequest(session_id="primed")]
        assert [one.session_id for one in server.asked("DeleteSession")] == ["fork0"]

    async def test_asyncio_starts_the_same(self, server: FakeServer, async_client: AsyncClient) -> None:
        async with async_client.session(start="primed", id="mine", seed=0) as opened:
            assert opened.id == "mine"
        assert server.asked("ForkSession") == [
            sessions_pb2.ForkSessionRequest(session_id="primed", seed=0, new_session_ids=["mine"])
        ]

    def test_its_model_is_that_of_the_other(self, server: FakeServer, run: Run) -> None:
        with pytest.raises(InvalidValue, match="model: a session that starts from session 'primed' has its model"):
            run(lambda client: client.session(start="primed", model="small"))
        assert server.calls == []

    def test_the_other_may_be_gone(self, server: FakeServer, client: Client) -> None:
        server.answers["ForkSession"] = failing(CODE.NOT_FOUND, "none", error_info("SESSION_NOT_FOUND"))
        with pytest.raises(NotFound):
            client.session(start="primed")


class TestPrime:
    def test_a_session_is_made_kept_and_fed(self, server: FakeServer, run: Run) -> None:
        info = run(lambda client: client.prime("primed", "Once", model="small", time_to_live=5))
        assert (info.id, info.position) == ("primed", 4)
        (asked,) = server.asked("CreateSession")
        assert asked.HasField("seed")
        asked.ClearField("seed")
        assert asked == sessions_pb2.CreateSessionRequest(
            model="small", session_id="primed", time_to_live=duration_pb2.Duration(seconds=5)
        )
        assert server.asked("FeedSession") == [sessions_pb2.FeedSessionRequest(session_id="primed", text="Once")]
        assert server.asked("DeleteSession") == []

    def test_what_could_not_be_fed_does_not_stay_behind(self, server: FakeServer, run: Run) -> None:
        server.answers["FeedSession"] = failing(CODE.INVALID_ARGUMENT, "text: unknown", error_info("INVALID_REQUEST"))
        with pytest.raises(InvalidArgument, match="text: unknown"):
            run(lambda client: client.prime("primed", "é"))
        assert [one.session_id for one in server.asked("DeleteSession")] == ["primed"]

    def test_a_deletion_that_fails_hides_nothing(self, server: FakeServer, run: Run) -> None:
        server.answers["FeedSession"] = failing(CODE.UNAVAILABLE, "gone")
        server.answers["DeleteSession"] = failing(CODE.INTERNAL, "fault", error_info("UNEXPECTED"))
        with pytest.raises(ConnectionFailed, match="gone"):
            run(lambda client: client.prime("primed", "Once"))

    def test_a_session_of_that_id_is_left_alone(self, server: FakeServer, run: Run) -> None:
        server.answers["CreateSession"] = failing(CODE.ALREADY_EXISTS, "in use", error_info("SESSION_EXISTS"))
        with pytest.raises(AlreadyExists):
            run(lambda client: client.prime("primed", "Once"))
        assert [name for name, _ in server.calls] == ["CreateSession"]

    @pytest.mark.parametrize("own", [True, False])
    def test_what_was_made_without_an_answer_does_not_stay_behind(
        self, server: FakeServer, run: Run, own: bool
    ) -> None:
        """But one that somebody else made of that id does."""

        def get(request: Any, _: Any) -> sessions_pb2.GetSessionResponse:
            found = session(request.session_id)
            found.seed = (server.asked("CreateSession")[0].seed + (not own)) % 2**64
            return sessions_pb2.GetSessionResponse(session=found)

        server.answers["CreateSession"] = failing(CODE.UNAVAILABLE, "connection reset")
        server.answers["GetSession"] = get
        with pytest.raises(ConnectionFailed, match="connection reset"):
            run(lambda client: client.prime("primed", "Once"))
        assert [one.session_id for one in server.asked("DeleteSession")] == ["primed"] * own

    def test_a_session_that_was_not_made_hides_nothing(self, server: FakeServer, run: Run) -> None:
        server.answers["CreateSession"] = failing(CODE.UNAVAILABLE, "connection reset")
        server.answers["GetSession"] = failing(CODE.NOT_FOUND, "none", error_info("SESSION_NOT_FOUND"))
        with pytest.raises(ConnectionFailed, match="connection reset"):
            run(lambda client: client.prime("primed", "Once"))
        assert server.asked("DeleteSession") == []

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (CODE.PERMISSION_DENIED, "SCOPE_MISSING"),
            (CODE.UNAUTHENTICATED, "KEY_UNKNOWN"),
            (CODE.RESOURCE_EXHAUSTED, "OVERLOADED"),
            (CODE.NOT_FOUND, "MODEL_NOT_FOUND"),
        ],
    )
    def test_after_a_refusal_nothing_is_looked_for(
        self, server: FakeServer, run: Run, code: grpc.StatusCode, reason: str
    ) -> None:
        server.answers["CreateSession"] = failing(code, "refused", error_info(reason))
        with pytest.raises(CharloomError, match="refused"):
            run(lambda client: client.prime("primed", "Once"))
        assert [name for name, _ in server.calls] == ["CreateSession"]

    def test_a_server_that_hangs_is_given_some_seconds_to_say_whether_it_made_one(
        self, server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for half in ("_async", "_sync"):
            monkeypatch.setattr(f"charloom.client.{half}.client_sessions.CLEANUP_TIMEOUT", 0.5)
        server.answers["CreateSession"] = server.answers["GetSession"] = lambda *_: server.ended.wait(120)
        with pytest.raises(DeadlineExceeded):
            run(lambda client: client.prime("primed", "Once", timeout=0.5))
        assert [name for name, _ in server.calls] == ["CreateSession", "GetSession"]
        assert all(left is not None and left < 1 for left in server.remaining.values())

    def test_a_text_that_is_none_makes_no_session(self, server: FakeServer, run: Run) -> None:
        with pytest.raises(InvalidValue, match="text: 5 is not a string"):
            run(lambda client: client.prime("primed", 5))
        assert server.calls == []


class TestImport:
    def test_a_state_becomes_a_session(self, server: FakeServer, client: Client) -> None:
        with client.import_session(b"sealed", id="mine", time_to_live=5) as opened:
            assert (opened.id, opened.info.position, opened.restored_exactly) == ("mine", 5, True)
        assert server.asked("ImportSession") == [
            sessions_pb2.ImportSessionRequest(
                state=b"sealed", session_id="mine", time_to_live=duration_pb2.Duration(seconds=5)
            )
        ]
        assert len(server.asked("DeleteSession")) == 1

    async def test_asyncio_does_so_when_it_is_entered_or_awaited(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        unopened = async_client.import_session(b"sealed", keep=True)
        assert unopened.restored_exactly is None
        assert server.calls == []
        async with unopened as opened:
            assert (opened.id, opened.restored_exactly) == ("imported", True)
        assert server.asked("DeleteSession") == []

    @pytest.mark.parametrize("exact", [True, False])
    def test_whether_text_goes_on_exactly_is_remembered(self, server: FakeServer, client: Client, exact: bool) -> None:
        server.answers["ImportSession"] = lambda _, __: sessions_pb2.ImportSessionResponse(
            session=session("a"), exact=exact
        )
        opened = client.import_session(b"sealed")
        assert opened.restored_exactly is exact
        opened.complete("Hi")
        assert opened.restored_exactly is exact

    def test_other_sessions_were_not_restored(self, client: Client) -> None:
        assert client.session().restored_exactly is None
        assert client.open_session("a").restored_exactly is None

    @pytest.mark.parametrize("state", ["text", b"", None])
    def test_a_state_that_is_none_is_refused(self, server: FakeServer, run: Run, state: Any) -> None:
        with pytest.raises(InvalidValue, match="state: "):
            run(lambda client: client.import_session(state))
        assert server.calls == []

    def test_a_damaged_state_is_said(self, server: FakeServer, client: Client) -> None:
        server.answers["ImportSession"] = failing(CODE.DATA_LOSS, "cut off", error_info("SEALED_STATE_CORRUPT"))
        with pytest.raises(DataLoss, match="cut off"):
            client.import_session(b"sealed")


class TestBlend:
    def test_sessions_and_ids_have_weights_and_an_order(self, server: FakeServer, client: Client) -> None:
        with client.session(id="b", keep=True) as second:
            sources: dict[Any, float] = {"a": 0.5, second: 2}
            with client.blend(sources, id="mix", seed=0, time_to_live=5) as opened:
                assert (opened.id, opened.restored_exactly) == ("mix", None)
        assert server.asked("BlendSessions") == [
            sessions_pb2.BlendSessionsRequest(
                sources=[
                    sessions_pb2.BlendSource(session_id="a", weight=0.5),
                    sessions_pb2.BlendSource(session_id="b", weight=2),
                ],
                session_id="mix",
                seed=0,
                time_to_live=duration_pb2.Duration(seconds=5),
            )
        ]
        assert [one.session_id for one in server.asked("DeleteSession")] == ["mix"]

    async def test_asyncio_blends_when_it_is_entered_or_awaited(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with async_client.session(id="b", keep=True) as second:
            unopened = async_client.blend({second: 1.0}, keep=True)
            assert server.asked("BlendSessions") == []
            assert (await unopened).id == "blend"
        source = sessions_pb2.BlendSource(session_id="b", weight=1)
        assert server.asked("BlendSessions") == [sessions_pb2.BlendSessionsRequest(sources=[source])]

    @pytest.mark.parametrize(
        ("sources", "words"),
        [
            ({5: 1.0}, "sources: 5 is not a string"),
            ({"a": "much"}, "sources['a']: 'much' is not a number"),
            (["a", "b"], "sources: it does not map sessions, or their ids, to weights"),
        ],
    )
    def test_sources_that_are_none_are_refused(self, server: FakeServer, run: Run, sources: Any, words: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            run(lambda client: client.blend(sources))
        assert str(caught.value).startswith(words)
        assert server.calls == []

    def test_numbers_and_ranges_are_left_to_the_server(self, server: FakeServer, client: Client) -> None:
        client.blend({})
        client.blend({"a": -1.0})
        assert len(server.asked("BlendSessions")) == 2

    async def test_a_source_that_is_not_open_is_said(self, async_client: AsyncClient) -> None:
        with pytest.raises(RuntimeError, match="not open yet"):
            async_client.blend({async_client.session(): 1.0})


class TestStates:
    async def test_a_state_is_started_from_and_returned(self, server: FakeServer, either: AsyncClient) -> None:
        def sealed(request: Any, context: grpc.ServicerContext) -> Any:
            for message in generate(request, context):
                if message.HasField("result"):
                    message.result.state = b"after"
                yield message

        generate = server.answers["Generate"]
        server.answers["Generate"] = sealed
        completion = await either.complete("Hi", state=b"before", return_state=True)
        assert completion.result.state == b"after"
        assert (await either.generate("Hi", state=b"before", return_state=True).result()).state == b"after"
        for request in server.asked("Generate"):
            assert (request.options.state, request.options.return_state) == (b"before", True)

    def test_without_being_asked_for_there_is_none(self, client: Client) -> None:
        assert client.complete("Hi").result.state is None
