"""Streams that break off and are resumed, over real connections, blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    CharloomError,
    Client,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    FinishReason,
    InternalError,
    NotFound,
    PositionNotKept,
    Result,
    Unavailable,
)
from charloom.client._access import Access
from charloom.client._async.connection import AsyncConnection
from charloom.client._async.resuming import AsyncResumingCall
from charloom.client._resumption import PATIENCE, Pace, Resumption
from charloom.client._sync.connection import Connection
from charloom.client._sync.resuming import ResumingCall
from charloom.v1 import generation_pb2
from tests.unit.client.fake_answers import (
    PIECES,
    TEXT,
    breaking,
    draining,
    error_info,
    failing,
    in_turn,
    retry_info,
    stream,
)
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy
from tests.unit.client.twins import somewhere, with_and_without

shared_stream = with_and_without

CODE = grpc.StatusCode
LOST = breaking(1, CODE.UNAVAILABLE, "connection reset")
STOPPING = failing(CODE.UNAVAILABLE, "the server is stopping", error_info("DRAINING"))
STORE_AWAY = failing(CODE.UNAVAILABLE, "the store does not answer", error_info("STORE_UNAVAILABLE"))
GONE = failing(CODE.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND"))


@dataclass
class Seen:
    """What a reader saw of a stream."""

    pieces: list[str] = field(default_factory=list)
    result: Result | None = None
    error: CharloomError | None = None
    later_error: CharloomError | None = None
    resumptions: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


OnPiece = Callable[[str], None]


def blocking(target: str, shared: bool, session: str | None, on_piece: OnPiece, **options: Any) -> Seen:
    seen = Seen()
    with Client(target, shared_stream=shared) as client:
        source = client.open_session(session) if session else client
        text = source.generate("Hi", **options)
        try:
            for piece in text:
                seen.pieces.append(piece)
                on_piece(piece)
            seen.result = text.result()
        except CharloomError as problem:
            seen.error = problem
            with pytest.raises(CharloomError) as again:
                next(text)
            seen.later_error = again.value
        seen.resumptions = text.resumptions
        assert text.text == seen.text
    return seen


def asynchronous(target: str, shared: bool, session: str | None, on_piece: OnPiece, **options: Any) -> Seen:
    async def read() -> Seen:
        seen = Seen()
        async with AsyncClient(target, shared_stream=shared) as client:
            source = await client.open_session(session) if session else client
            text = source.generate("Hi", **options)
            try:
                async for piece in text:
                    seen.pieces.append(piece)
                    await asyncio.to_thread(on_piece, piece)
                seen.result = await text.result()
            except CharloomError as problem:
                seen.error = problem
                with pytest.raises(CharloomError) as again:
                    await anext(text)
                seen.later_error = again.value
            seen.resumptions = text.resumptions
            assert text.text == seen.text
        return seen

    return asyncio.run(read())


Read = Callable[..., Seen]


class Clock:
    """Time that can be let pass; it passes by itself too."""

    def __init__(self) -> None:
        self._passed = 0.0

    def pass_by(self, seconds: float) -> None:
        self._passed += seconds

    def __call__(self) -> float:
        return time.monotonic() + self._passed

    def before(self, seconds: float, answer: Any) -> Any:
        """An answer of Generate after that time."""

        def late(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.pass_by(seconds)
            yield from answer(request, context)

        return late


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That of all streams which may be resumed."""
    clock = Clock()
    monkeypatch.setitem(Resumption.__init__.__kwdefaults__, "pace", Pace(clock=clock))  # type: ignore[arg-type]
    return clock


@pytest.fixture(params=[blocking, asynchronous])
def read(request: pytest.FixtureRequest, server: FakeServer, shared_stream: bool) -> Read:
    """Reads a stream of either client to its end."""

    def read(
        target: str = server.target,
        *,
        session: str | None = None,
        on_piece: OnPiece = lambda piece: None,
        **options: Any,
    ) -> Seen:
        seen: Seen = request.param(target, shared_stream, session, on_piece, **options)
        assert seen.later_error is seen.error
        return seen

    return read


def check_whole(seen: Seen, resumptions: int) -> None:
    """One uninterrupted text, each piece once."""
    assert seen.error is None
    assert seen.pieces == list(PIECES)
    assert seen.result is not None
    assert seen.result.finish_reason is FinishReason.LENGTH
    assert seen.resumptions == resumptions


class TestRequests:
    def test_an_unbroken_stream_is_one_call_that_could_be_resumed(self, server: FakeServer, read: Read) -> None:
        check_whole(read(), 0)
        check_whole(read(resume=False), 0)
        first, second = server.asked("Generate")
        assert len(first.call_id) == 32
        assert len({first.call_id, second.call_id}) == 2
        assert first.options.seed != second.options.seed
        assert not first.HasField("resume_position")

    def test_the_same_call_is_made_again_from_the_last_message_on(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(
            LOST,
            breaking(2, CODE.UNAVAILABLE, "lost again"),
            breaking(3, CODE.UNAVAILABLE, "and before the result"),
            stream,
        )
        check_whole(read(temperature=0.5, stop="END"), 3)
        first, *later = server.asked("Generate")
        assert [one.resume_position for one in later] == [8, 12, 19]
        for one in later:
            one.ClearField("resume_position")
            assert one == first

    def test_a_call_that_is_resumed_names_the_model_that_it_began_with(self, server: FakeServer, read: Read) -> None:
        def naming(digest: str, then: Any) -> Any:
            def answer(request: Any, context: Any) -> Any:
                for number, message in enumerate(then(request, context)):
                    message.model_digest = "" if number else digest
                    yield message

            return answer

        server.answers["Generate"] = in_turn(
            naming("d1", LOST), naming("", breaking(2, CODE.UNAVAILABLE, "lost again")), naming("d1", stream)
        )
        check_whole(read(), 2)
        assert [one.model_digest for one in server.asked("Generate")] == ["", "d1", "d1"]

    def test_a_session_keeps_its_own_seed(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(LOST, stream)
        check_whole(read(session="s1"), 1)
        for request in server.asked("Generate"):
            assert (request.options.session_id, request.options.HasField("seed")) == ("s1", False)
            assert request.call_id != ""

    def test_the_first_call_does_not_wait_for_a_server(self, nobody: str, read: Read) -> None:
        began = time.monotonic()
        assert isinstance(read(nobody).error, ConnectionFailed)
        assert time.monotonic() - began < PATIENCE / 2

    def test_a_resumed_call_has_what_is_left_of_the_deadline(
        self, server: FakeServer, read: Read, clock: Clock
    ) -> None:
        remaining = []

        def noting(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            remaining.append(context.time_remaining())
            return (clock.before(400, LOST) if len(remaining) == 1 else stream)(request, context)

        server.answers["Generate"] = noting
        check_whole(read(timeout=600), 1)
        # gRPC sends deadlines that differ by less than three per cent as the same.
        assert remaining == [pytest.approx(600, abs=60), pytest.approx(200, abs=60)]

    def test_without_a_deadline_there_is_none_later(self, server: FakeServer, read: Read) -> None:
        remaining = []

        def noting(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            remaining.append(context.time_remaining())
            return (LOST if len(remaining) == 1 else stream)(request, context)

        server.answers["Generate"] = noting
        check_whole(read(timeout=None), 1)
        assert all(left is None or left > 1e8 for left in remaining)


class TestBreaks:
    @pytest.mark.parametrize(
        ("code", "details"),
        [
            (CODE.UNAVAILABLE, []),
            (CODE.UNAVAILABLE, [error_info("DRAINING")]),
            (CODE.UNAVAILABLE, [error_info("STORE_UNAVAILABLE")]),
            (CODE.INTERNAL, []),
            (CODE.UNKNOWN, []),
            (CODE.CANCELLED, []),
        ],
    )
    def test_a_lost_stream_goes_on(
        self, server: FakeServer, read: Read, code: grpc.StatusCode, details: list[Any]
    ) -> None:
        server.answers["Generate"] = in_turn(breaking(2, code, "Received RST_STREAM", *details), stream)
        check_whole(read(), 1)

    @pytest.mark.parametrize("reason", ["OVERLOADED", "QUOTA_EXCEEDED"])
    def test_a_server_that_is_full_for_a_moment_is_asked_again(
        self, server: FakeServer, read: Read, reason: str
    ) -> None:
        full = failing(CODE.RESOURCE_EXHAUSTED, "many calls are waiting", error_info(reason), retry_info(0.01))
        server.answers["Generate"] = in_turn(LOST, full, full, stream)
        check_whole(read(), 1)
        assert [one.resume_position for one in server.asked("Generate")] == [0, 8, 8, 8]

    def test_a_server_that_was_killed_is_found_again(self, server: FakeServer, proxy: Proxy, read: Read) -> None:
        def hold(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            (first, *_) = stream(request, context)
            yield first
            server.ended.wait(120)

        def cut(piece: str) -> None:
            if piece == PIECES[0]:
                proxy.cut()

        server.answers["Generate"] = in_turn(hold, stream)
        check_whole(read(proxy.target, on_piece=cut), 1)
        assert [one.resume_position for one in server.asked("Generate")] == [0, 8]

    def test_a_server_that_takes_a_while_to_come_back_is_waited_for(
        self, server: FakeServer, proxy: Proxy, read: Read
    ) -> None:
        def hold(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            (first, *_) = stream(request, context)
            yield first
            server.ended.wait(120)

        def cut(piece: str) -> None:
            if piece == PIECES[0]:
                proxy.backend = None
                proxy.cut()
                timer.start()

        def come_back() -> None:
            proxy.backend = server.target

        timer = threading.Timer(0.5, come_back)
        server.answers["Generate"] = in_turn(hold, stream)
        check_whole(read(proxy.target, on_piece=cut), 1)
        timer.join()
        assert [one.resume_position for one in server.asked("Generate")] == [0, 8]

    @pytest.mark.parametrize("refusing", [STOPPING, STORE_AWAY])
    def test_a_server_that_says_it_took_nothing_is_asked_again(
        self, server: FakeServer, read: Read, refusing: Any
    ) -> None:
        server.answers["Generate"] = in_turn(refusing, refusing, stream)
        check_whole(read(), 1)
        requests = server.asked("Generate")
        assert len(requests) == 3
        assert requests[0] == requests[1] == requests[2]

    @pytest.mark.parametrize("code", [CODE.INTERNAL, CODE.UNKNOWN, CODE.CANCELLED])
    def test_a_stream_that_was_lost_before_its_first_message_is_made_again(
        self, server: FakeServer, read: Read, code: grpc.StatusCode
    ) -> None:
        server.answers["Generate"] = in_turn(failing(code, "Received RST_STREAM"), stream)
        check_whole(read(), 1)
        assert not server.asked("Generate")[1].HasField("resume_position")

    @pytest.mark.parametrize("resume", [True, False])
    def test_log_probabilities_and_position_are_those_of_one_stream(
        self, server: FakeServer, client: Client, resume: bool
    ) -> None:
        if resume:
            server.answers["Generate"] = in_turn(LOST, stream)
        with client.generate("Hi", logprobs=True, resume=resume) as text:
            text.result()
            assert "".join(token.text for token in text.logprobs) == TEXT
            assert text.position == 19

    def test_who_does_not_want_it_gets_the_error(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(LOST, stream)
        seen = read(resume=False)
        assert isinstance(seen.error, ConnectionFailed)
        assert (seen.pieces, seen.resumptions) == ([PIECES[0]], 0)
        assert len(server.asked("Generate")) == 1

    def test_several_continuations_are_not_resumed(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = LOST
        with pytest.raises(ConnectionFailed):
            client.continuations("Hi", n=2).completions()
        (request,) = server.asked("Generate")
        assert request.call_id == ""

    @pytest.mark.parametrize("lost", [LOST, STOPPING])
    async def test_a_text_that_is_wanted_whole_is_resumed_as_a_stream_is(
        self, server: FakeServer, either: AsyncClient, lost: Any
    ) -> None:
        server.answers["Generate"] = in_turn(lost, stream)
        completion = await either.complete("Hi", logprobs=True)
        assert completion.text == TEXT
        assert "".join(token.text for token in completion.logprobs) == TEXT
        first, second = server.asked("Generate")
        assert first.call_id == second.call_id


def to_the_end(target: str, resumption: Resumption) -> None:
    connection = Connection(target, None, Access(None, ()), ())
    try:
        context = connection.new_call()
        call = ResumingCall(functools.partial(connection.generate, context), resumption, context)
        while True:
            next(call)
    finally:
        connection.close()


def to_the_end_asyncio(target: str, resumption: Resumption) -> None:
    async def read() -> None:
        connection = AsyncConnection(target, None, Access(None, ()), ())
        try:
            context = connection.new_call()
            call = AsyncResumingCall(functools.partial(connection.generate, context), resumption, context)
            while await call.read() is not grpc.aio.EOF:
                pass
        finally:
            await connection.close()

    asyncio.run(read())


class TestGivingUp:
    @pytest.fixture
    def shared_stream(self) -> bool:
        """When to give up is decided without knowing of it, and these tests take their time."""
        return False

    def test_a_server_that_never_comes_back_is_the_first_error_at_the_deadline(
        self, server: FakeServer, read: Read, clock: Clock
    ) -> None:
        server.answers["Generate"] = in_turn(
            breaking(1, CODE.UNAVAILABLE, "the first error", error_info("STORE_UNAVAILABLE")),
            clock.before(250, STOPPING),
        )
        seen = read(timeout=600)
        assert isinstance(seen.error, Unavailable)
        assert (str(seen.error), seen.error.reason) == ("the first error", "STORE_UNAVAILABLE")
        assert (seen.pieces, seen.resumptions) == ([PIECES[0]], 0)
        assert len(server.asked("Generate")) == 4

    @pytest.mark.parametrize("read_to_the_end", [to_the_end, to_the_end_asyncio])
    def test_without_a_deadline_patience_ends_too(
        self, server: FakeServer, read_to_the_end: Callable[[str, Resumption], None], clock: Clock
    ) -> None:
        server.answers["Generate"] = in_turn(LOST, clock.before(0.35 * PATIENCE, LOST))
        request = generation_pb2.GenerateRequest(call_id="c1")
        with pytest.raises(ConnectionFailed):
            read_to_the_end(server.target, Resumption(request, None, somewhere(server.target), enabled=True))
        assert len(server.asked("Generate")) == 4

    @pytest.mark.parametrize(
        ("code", "reason", "kind"),
        [
            (CODE.NOT_FOUND, "SESSION_NOT_FOUND", NotFound),
            (CODE.OUT_OF_RANGE, "POSITION_NOT_KEPT", PositionNotKept),
            (CODE.ABORTED, "SESSION_TAKEN_OVER", Conflict),
            (CODE.INTERNAL, "UNEXPECTED", InternalError),
        ],
    )
    def test_a_server_that_cannot_go_on_says_why_and_the_break_is_not_forgotten(
        self, server: FakeServer, read: Read, code: grpc.StatusCode, reason: str, kind: type[CharloomError]
    ) -> None:
        server.answers["Generate"] = in_turn(LOST, LOST, failing(code, "cannot go on", error_info(reason)))
        seen = read()
        assert type(seen.error) is kind
        assert str(seen.error) == "cannot go on"
        assert isinstance(seen.error.__cause__, ConnectionFailed)
        assert "connection reset" in str(seen.error.__cause__)
        assert isinstance(seen.error.__cause__.__cause__, grpc.RpcError)
        assert seen.pieces == [PIECES[0]]

    def test_a_server_that_hangs_after_a_break_is_a_deadline_chained_from_the_break(
        self, server: FakeServer, read: Read, clock: Clock
    ) -> None:
        def hang(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            server.ended.wait(120)
            yield from ()

        server.answers["Generate"] = in_turn(clock.before(58, LOST), hang)
        seen = read(timeout=60)
        assert isinstance(seen.error, DeadlineExceeded)
        assert isinstance(seen.error.__cause__, ConnectionFailed)

    def test_errors_that_are_no_breaks_are_told_at_once(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = breaking(1, CODE.INTERNAL, "a fault", error_info("UNEXPECTED"))
        seen = read()
        assert isinstance(seen.error, InternalError)
        assert len(server.asked("Generate")) == 1


class TestDraining:
    def test_a_session_goes_on_elsewhere(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(draining(2), stream)
        check_whole(read(session="s1"), 1)
        first, second = server.asked("Generate")
        assert second.resume_position == 12
        second.ClearField("resume_position")
        assert first == second

    def test_text_that_comes_with_the_result_is_not_lost(self, server: FakeServer, read: Read) -> None:
        def in_one(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            *_, last = draining(1)(request, context)
            last.text = PIECES[0]
            yield last

        server.answers["Generate"] = in_turn(in_one, stream)
        check_whole(read(session="s1"), 1)

    @pytest.mark.parametrize(
        "answer",
        [STOPPING, GONE, failing(CODE.UNAVAILABLE, "nobody"), lambda request, context: iter(())],
        ids=["stopping", "gone", "nobody", "silent"],
    )
    def test_if_nobody_goes_on_the_result_is_as_it_was(self, server: FakeServer, read: Read, answer: Any) -> None:
        server.answers["Generate"] = in_turn(draining(2), answer)
        seen = read(session="s1")
        assert seen.error is None
        assert seen.pieces == list(PIECES[:2])
        assert seen.result is not None
        assert (seen.result.finish_reason, seen.result.position) == (FinishReason.DRAINING, 12)
        assert len(server.asked("Generate")) == 2
        assert seen.resumptions == 0

    def test_the_session_learns_where_it_stands(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = in_turn(draining(2), STOPPING)
        with client.session(id="s1") as session:
            session.generate("Hi").result()
            assert session.info.position == 12

    def test_a_whole_fleet_may_stop_one_after_the_other(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(draining(1), draining(2), draining(2), stream)
        seen = read(session="s1")
        assert seen.pieces == list(PIECES[:2])
        assert seen.result is not None
        assert seen.result.finish_reason is FinishReason.DRAINING
        assert len(server.asked("Generate")) == 3

    def test_without_a_session_the_result_is_the_end(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(draining(2), stream)
        seen = read()
        assert seen.result is not None
        assert seen.result.finish_reason is FinishReason.DRAINING
        assert len(server.asked("Generate")) == 1

    def test_who_does_not_want_it_gets_the_result(self, server: FakeServer, read: Read) -> None:
        server.answers["Generate"] = in_turn(draining(2), stream)
        seen = read(session="s1", resume=False)
        assert seen.result is not None
        assert seen.result.finish_reason is FinishReason.DRAINING
        assert len(server.asked("Generate")) == 1


def test_a_stream_is_whole_however_often_it_breaks(server: FakeServer, read: Read) -> None:
    """Every call fails after one more piece, in changing ways."""
    codes = [CODE.UNAVAILABLE, CODE.INTERNAL, CODE.CANCELLED]

    def one_piece(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        for number, message in enumerate(stream(request, context)):
            if number == 1:
                failing(codes[request.resume_position % 3], "lost")(request, context)
            yield message

    server.answers["Generate"] = one_piece
    check_whole(read(session="s1"), 3)
