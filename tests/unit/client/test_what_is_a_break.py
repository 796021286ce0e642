"""What a break means and what follows from it, without any call and any waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2

from charloom.client import Cancelled, CharloomError, Conflict, ConnectionFailed, NotFound, Overloaded, Unavailable
from charloom.client._resumption import PATIENCE, Pace, Resumption
from charloom.v1 import generation_pb2
from tests.unit.client.fake_answers import error_info, retry_info
from tests.unit.client.twins import somewhere

CODE = grpc.StatusCode
DRAINING = generation_pb2.FINISH_REASON_DRAINING


@dataclass
class Clock:
    """Time that stands still and no jitter, for the resumptions that it makes."""

    now: float = 1000.0
    jitter: Callable[[float, float], float] = max

    def resumption(self, seconds: float | None = 100.0, session: str = "", enabled: bool = True) -> Resumption:
        request = generation_pb2.GenerateRequest(
            call_id="c1", options=generation_pb2.GenerationOptions(prompt="Hi", session_id=session, seed=7)
        )
        pace = Pace(clock=lambda: self.now, jitter=self.jitter)
        made = Resumption(request, seconds, somewhere(), enabled=enabled, pace=pace)
        made.request()
        return made

    def begun(self, seconds: float | None = 100.0, position: int = 8, **given: Any) -> Resumption:
        made = self.resumption(seconds, **given)
        made.arrived(generation_pb2.GenerateResponse(text="Once ", position=position))
        return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


def error(
    code: grpc.StatusCode, reason: str = "", domain: str = "charloom", retry_after: float | None = None
) -> grpc.aio.AioRpcError:
    trailer = grpc.aio.Metadata()
    if reason:
        info = error_info(reason)
        info.domain = domain
        details = [any_pb2.Any()]
        details[0].Pack(info)
        if retry_after is not None:
            details.append(any_pb2.Any())
            details[1].Pack(retry_info(retry_after))
        status = status_pb2.Status(code=code.value[0], message=reason, details=details)
        trailer.add("grpc-status-details-bin", status.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, details=reason or "broken")


def drained(position: int = 12) -> generation_pb2.GenerateResponse:
    ending = generation_pb2.GenerationResult(finish_reason=DRAINING, position=position)
    return generation_pb2.GenerateResponse(text="upon", position=position, result=ending)


LOST = [
    (CODE.UNAVAILABLE, ""),
    (CODE.UNAVAILABLE, "DRAINING"),
    (CODE.UNAVAILABLE, "STORE_UNAVAILABLE"),
    (CODE.UNAVAILABLE, "LOADING"),
    (CODE.INTERNAL, ""),
    (CODE.UNKNOWN, ""),
    (CODE.CANCELLED, ""),
]
FINAL = [
    (CODE.INTERNAL, "UNEXPECTED"),
    (CODE.INTERNAL, "DECODER_FAILURE"),
    (CODE.UNKNOWN, "UNEXPECTED"),
    (CODE.CANCELLED, "STOPPED"),
    (CODE.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (CODE.NOT_FOUND, "SESSION_NOT_FOUND"),
    (CODE.NOT_FOUND, ""),
    (CODE.ABORTED, "SESSION_BUSY"),
    (CODE.ABORTED, "SESSION_TAKEN_OVER"),
    (CODE.OUT_OF_RANGE, "POSITION_NOT_KEPT"),
    (CODE.RESOURCE_EXHAUSTED, "OVERLOADED"),
    (CODE.DEADLINE_EXCEEDED, ""),
    (CODE.DATA_LOSS, ""),
    (CODE.UNIMPLEMENTED, ""),
]


class TestWhatIsABreak:
    @pytest.mark.parametrize(("code", "reason"), LOST)
    def test_a_stream_that_had_begun_is_tried_again(self, clock: Clock, code: grpc.StatusCode, reason: str) -> None:
        way = clock.begun()
        assert way.broke(error(code, reason), stopped=False) is None
        assert way.pause == 0.05
        assert not way.over

    @pytest.mark.parametrize(("code", "reason"), FINAL)
    def test_what_the_server_means_is_not(self, clock: Clock, code: grpc.StatusCode, reason: str) -> None:
        way = clock.begun()
        given = error(code, reason)
        with pytest.raises(CharloomError) as caught:
            way.broke(given, stopped=False)
        assert caught.value.__cause__ is given
        assert way.pause is None

    @pytest.mark.parametrize(
        ("code", "reason", "again"),
        [
            (CODE.UNAVAILABLE, "", True),
            (CODE.UNAVAILABLE, "LOADING", False),
            (CODE.UNAVAILABLE, "DRAINING", True),
            (CODE.UNAVAILABLE, "STORE_UNAVAILABLE", True),
            (CODE.INTERNAL, "", True),
            (CODE.UNKNOWN, "", True),
            (CODE.CANCELLED, "", True),
            *[(code, reason, False) for code, reason in FINAL],
        ],
    )
    def test_before_the_first_message(self, clock: Clock, code: grpc.StatusCode, reason: str, again: bool) -> None:
        way = clock.resumption()
        if again:
            assert way.broke(error(code, reason), stopped=False) is None
            assert way.pause is not None
        else:
            with pytest.raises(CharloomError):
                way.broke(error(code, reason), stopped=False)

    @pytest.mark.parametrize(
        "words",
        [
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
            "DNS resolution failed for nowhere.invalid: C-ares status is not ARES_SUCCESS",
        ],
    )
    def test_where_there_never_was_a_connection_it_is_told_at_once(self, clock: Clock, words: str) -> None:
        never = grpc.aio.AioRpcError(CODE.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=words)
        with pytest.raises(ConnectionFailed, match="is a server running there"):
            clock.resumption().broke(never, stopped=False)
        assert clock.begun().broke(never, stopped=False) is None

    def test_a_server_that_goes_away_after_it_said_so_is_waited_for(self, clock: Clock) -> None:
        way = clock.resumption()
        way.broke(error(CODE.UNAVAILABLE, "DRAINING"), stopped=False)
        assert not way.request().HasField("resume_position")
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert way.pause == 0.1

    def test_the_reason_of_somebody_else_is_as_good_as_none(self, clock: Clock) -> None:
        way = clock.begun()
        assert way.broke(error(CODE.INTERNAL, "UPSTREAM", domain="proxy.example"), stopped=False) is None

    @pytest.mark.parametrize(("code", "reason"), LOST)
    def test_whoever_wants_none_of_it_gets_the_error(self, clock: Clock, code: grpc.StatusCode, reason: str) -> None:
        with pytest.raises(CharloomError):
            clock.begun(enabled=False).broke(error(code, reason), stopped=False)

    def test_a_cancelled_call_is_no_break(self, clock: Clock) -> None:
        for given in (error(CODE.CANCELLED), error(CODE.UNAVAILABLE)):
            way = clock.begun()
            with pytest.raises(Cancelled, match="was cancelled"):
                way.broke(given, stopped=True)
            assert way.pause is None
        with pytest.raises(NotFound):
            clock.begun().broke(error(CODE.NOT_FOUND), stopped=True)


class TestTheNextTry:
    def test_it_is_the_same_request_with_the_position_of_the_last_message(self, clock: Clock) -> None:
        way = clock.begun(position=8)
        way.arrived(generation_pb2.GenerateResponse(text="upon", position=12))
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        again = way.request()
        assert again.resume_position == 12
        again.ClearField("resume_position")
        assert again == clock.resumption().request()
        assert way.pause is None

    def test_position_zero_is_a_position(self, clock: Clock) -> None:
        way = clock.begun(position=0)
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert way.request().HasField("resume_position")

    def test_what_is_left_of_the_deadline_is_left(self, clock: Clock) -> None:
        way = clock.begun(seconds=10)
        clock.now += 7.5
        assert way.seconds_left() == 2.5
        clock.now += 99
        assert way.seconds_left() == 0
        assert clock.begun(seconds=None).seconds_left() is None

    def test_pauses_double_up_to_a_second(self, clock: Clock) -> None:
        way = clock.begun()
        pauses = []
        for _ in range(8):
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            pauses.append(way.pause)
            way.request()
        assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]

    def test_pauses_are_shorter_by_chance(self, clock: Clock) -> None:
        def least_of(least: float, most: float) -> float:
            seen.append((least, most))
            return least

        seen: list[tuple[float, float]] = []
        clock.jitter = least_of
        way = clock.begun()
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert seen == [(0.5, 1.0)]
        assert way.pause == 0.025

    def test_they_begin_anew_when_text_has_come(self, clock: Clock) -> None:
        way = clock.begun()
        for position in (12, 19):
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            way.request()
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            assert way.pause == 0.1
            way.request()
            way.arrived(generation_pb2.GenerateResponse(position=position))
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert way.pause == 0.05

    def test_they_do_not_where_nothing_new_came(self, clock: Clock) -> None:
        way = clock.begun(position=8)
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        way.request()
        way.arrived(generation_pb2.GenerateResponse(position=8))
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert way.pause == 0.1

    def test_only_tries_that_brought_something_are_counted(self, clock: Clock) -> None:
        way = clock.begun()
        assert way.count == 0
        for _ in range(3):
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            way.request()
        assert way.count == 0
        for position in (9, 10):
            way.arrived(generation_pb2.GenerateResponse(position=position))
        assert way.count == 1


def full(retry_after: float | None = 2.0, reason: str = "OVERLOADED") -> grpc.aio.AioRpcError:
    return error(CODE.RESOURCE_EXHAUSTED, reason, retry_after=retry_after)


class TestAFullServer:
    @pytest.mark.parametrize("reason", ["OVERLOADED", "QUOTA_EXCEEDED", "STORE_FULL"])
    def test_it_is_asked_again_a_little_after_the_time_that_it_names(self, clock: Clock, reason: str) -> None:
        way = clock.begun()
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        for pause in (2.1, 2.2, 2.4):
            way.request()
            assert way.broke(full(reason=reason), stopped=False) is None
            assert way.pause == pytest.approx(pause)

    def test_so_it_is_for_a_text_that_another_server_took_back(self, clock: Clock) -> None:
        way = clock.resumption()
        way.broke(error(CODE.UNAVAILABLE, "DRAINING"), stopped=False)
        way.request()
        way.broke(full(), stopped=False)
        assert way.pause == 2.1

    def test_where_it_names_none_that_is_the_end(self, clock: Clock) -> None:
        way = clock.begun()
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        way.request()
        with pytest.raises(Overloaded) as caught:
            way.broke(full(None), stopped=False)
        assert isinstance(caught.value.__cause__, ConnectionFailed)

    def test_what_is_no_break_is_told_at_once(self, clock: Clock) -> None:
        """A new call that is refused, and one that the server itself ends."""
        for way in (clock.resumption(), clock.begun()):
            with pytest.raises(Overloaded):
                way.broke(full(), stopped=False)
            assert way.pause is None

    def test_with_too_little_time_left_it_is_told_with_the_break(self, clock: Clock) -> None:
        for seconds, wait in ((10.0, 9.9), (None, PATIENCE - 0.1)):
            way = clock.begun(seconds=seconds)
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            way.request()
            with pytest.raises(Overloaded) as caught:
                way.broke(full(wait), stopped=False)
            assert caught.value.retry_after == pytest.approx(wait)
            assert isinstance(caught.value.__cause__, ConnectionFailed)


class TestGivingUp:
    def test_the_deadline_ends_it_with_the_first_error(self, clock: Clock) -> None:
        way = clock.begun(seconds=10)
        first = error(CODE.UNAVAILABLE, "STORE_UNAVAILABLE")
        way.broke(first, stopped=False)
        way.request()
        clock.now += 9.85
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        way.request()
        with pytest.raises(Unavailable) as caught:
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert caught.value.reason == "STORE_UNAVAILABLE"
        assert caught.value.__cause__ is first

    def test_a_break_with_no_time_left_is_told_at_once(self, clock: Clock) -> None:
        way = clock.begun(seconds=10)
        clock.now += 9.96
        with pytest.raises(ConnectionFailed):
            way.broke(error(CODE.UNAVAILABLE), stopped=False)

    def test_without_a_deadline_a_minute_ends_it(self, clock: Clock) -> None:
        way = clock.begun(seconds=None)
        clock.now += 5000
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        clock.now += PATIENCE - 0.2
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        clock.now += 0.1
        with pytest.raises(ConnectionFailed):
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
        assert PATIENCE == 60

    def test_the_minute_begins_anew_with_each_message(self, clock: Clock) -> None:
        way = clock.begun(seconds=None)
        for position in (9, 10, 11):
            clock.now += 1
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            clock.now += PATIENCE - 1
            way.broke(error(CODE.UNAVAILABLE), stopped=False)
            way.request()
            way.arrived(generation_pb2.GenerateResponse(position=position))

    @pytest.mark.parametrize(
        ("code", "reason", "kind"),
        [
            (CODE.NOT_FOUND, "SESSION_NOT_FOUND", NotFound),
            (CODE.ABORTED, "SESSION_TAKEN_OVER", Conflict),
            (CODE.OUT_OF_RANGE, "POSITION_NOT_KEPT", CharloomError),
        ],
    )
    def test_another_error_is_told_and_the_first_one_with_it(
        self, clock: Clock, code: grpc.StatusCode, reason: str, kind: type[CharloomError]
    ) -> None:
        way = clock.begun()
        way.broke(error(CODE.INTERNAL), stopped=False)
        way.request()
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        way.request()
        with pytest.raises(kind) as caught:
            way.broke(error(code, reason), stopped=False)
        assert isinstance(caught.value.__cause__, ConnectionFailed)
        assert "INTERNAL" in str(caught.value.__cause__)

    def test_an_error_after_new_text_has_nothing_to_do_with_the_break_before(self, clock: Clock) -> None:
        way = clock.begun()
        way.broke(error(CODE.UNAVAILABLE), stopped=False)
        way.request()
        way.arrived(generation_pb2.GenerateResponse(position=9))
        with pytest.raises(NotFound) as caught:
            way.broke(error(CODE.NOT_FOUND), stopped=False)
        assert isinstance(caught.value.__cause__, grpc.RpcError)

    def test_the_end_is_the_end(self, clock: Clock) -> None:
        way = clock.begun()
        assert way.ended() is None
        assert way.over


class TestDraining:
    def test_the_text_is_handed_on_and_another_server_is_asked_for_the_rest(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        piece = way.arrived(drained(12))
        assert (piece.text, piece.position, piece.HasField("result")) == ("upon", 12, False)
        assert way.ended() is None
        assert (way.pause, way.over) == (0.0, False)
        again = way.request()
        assert (again.call_id, again.resume_position) == ("c1", 12)
        rest = generation_pb2.GenerateResponse(text="!", position=13)
        assert way.arrived(rest) == rest
        assert way.count == 1
        assert way.ended() is None
        assert way.over

    def test_a_stream_that_breaks_behind_its_result_is_as_good_as_one_that_ends(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained())
        assert way.broke(error(CODE.UNAVAILABLE), stopped=False) is None
        assert way.pause == 0.0

    @pytest.mark.parametrize(("code", "reason"), [*LOST, *FINAL])
    def test_if_that_fails_the_result_is_given_after_all(
        self, clock: Clock, code: grpc.StatusCode, reason: str
    ) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained())
        way.ended()
        way.request()
        last = way.broke(error(code, reason), stopped=False)
        assert last is not None
        assert (last.text, last.position, last.result) == ("", 12, drained().result)
        assert way.over

    def test_another_server_that_says_nothing_has_failed_too(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained())
        way.ended()
        way.request()
        last = way.ended()
        assert last is not None
        assert last.result.finish_reason == DRAINING
        assert way.over

    def test_one_that_stops_in_the_same_place_is_not_asked_twice(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained(12))
        way.ended()
        way.request()
        assert way.arrived(drained(12)) == drained(12)
        assert way.ended() is None
        assert way.over

    def test_one_that_went_on_and_then_stops_is_a_new_matter(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained(12))
        way.ended()
        way.request()
        assert not way.arrived(drained(15)).HasField("result")
        assert way.ended() is None
        assert way.pause == 0.0
        assert way.request().resume_position == 15

    def test_a_break_after_it_went_on_is_a_break(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained(12))
        way.ended()
        way.request()
        way.arrived(generation_pb2.GenerateResponse(text="!", position=13))
        assert way.broke(error(CODE.UNAVAILABLE), stopped=False) is None
        assert way.pause == 0.05

    @pytest.mark.parametrize("given", [{"session": ""}, {"session": "s1", "enabled": False}])
    def test_without_a_session_or_a_wish_for_it_the_result_is_the_end(
        self, clock: Clock, given: dict[str, Any]
    ) -> None:
        way = clock.begun(**given)
        assert way.arrived(drained()) == drained()
        assert way.ended() is None
        assert way.over

    def test_who_cancels_meanwhile_is_obeyed(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        way.arrived(drained())
        with pytest.raises(Cancelled):
            way.broke(error(CODE.CANCELLED), stopped=True)

    def test_other_results_pass(self, clock: Clock) -> None:
        way = clock.begun(session="s1")
        message = drained()
        message.result.finish_reason = generation_pb2.FINISH_REASON_LENGTH
        assert way.arrived(message) == message
