"""Many calls on one stream, through generated stubs, against a real server."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server import app
from charloom.server.app import Server
from charloom.server.grpc.services import many_calls
from charloom.server.identity.key_file import KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from tests.integration.conftest import refused
from tests.waiting import eventually

Generation = generation_pb2_grpc.GenerationServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
CODE = grpc.StatusCode
LONG = 60_000
"""Tokens of a call that is not to end by itself."""


class Stream:
    """A stream of GenerateMany, and what came on it by the numbers of its calls."""

    def __init__(self, stub: Generation, **how: Any) -> None:
        self._requests: queue.SimpleQueue[generation_pb2.GenerateManyRequest | None] = queue.SimpleQueue()
        self._call = stub.GenerateMany(iter(self._requests.get, None), **{"timeout": 60, **how})
        self._numbers = itertools.count()
        self.pieces: defaultdict[int, list[generation_pb2.GenerateResponse]] = defaultdict(list)
        self.ends: dict[int, generation_pb2.GenerateEnd] = {}
        self.messages = 0

    def begin(self, *asked: generation_pb2.GenerationOptions, **more: Any) -> list[int]:
        """Begin calls in one message; returns their numbers."""
        calls = [
            generation_pb2.GenerateCall(
                number=next(self._numbers), request=generation_pb2.GenerateRequest(options=one), **more
            )
            for one in asked
        ]
        self.send(calls=calls)
        return [call.number for call in calls]

    def send(self, **fields: Any) -> None:
        self._requests.put(generation_pb2.GenerateManyRequest(**fields))

    def close(self) -> None:
        """Say that nothing more is sent."""
        self._requests.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self.close()

    def read(self) -> bool:
        """Read a message; whether there was one."""
        message = next(self._call, None)
        if message is None:
            return False
        self.messages += 1
        for piece in message.pieces:
            assert piece.number not in self.ends
            self.pieces[piece.number].append(piece.response)
        for end in message.ends:
            assert end.number not in self.ends
            self.ends[end.number] = end
        return True

    def read_ends(self, numbers: Sequence[int]) -> list[generation_pb2.GenerateEnd]:
        """Read until calls have ended; returns how."""
        while not set(numbers) <= self.ends.keys():
            assert self.read()
        return [self.ends[number] for number in numbers]

    def read_pieces(self, *numbers: int) -> None:
        """Read until something of each of these calls has come."""
        while any(number not in self.pieces for number in numbers):
            assert self.read()

    def text(self, number: int) -> str:
        return "".join(piece.text for piece in self.pieces[number])


def options(**fields: Any) -> generation_pb2.GenerationOptions:
    return generation_pb2.GenerationOptions(**{"prompt": "The ", "max_tokens": 40, "seed": 1} | fields)


def endless(**fields: Any) -> generation_pb2.GenerationOptions:
    return options(max_tokens=LONG, **fields)


def reason_of(end: generation_pb2.GenerateEnd) -> str:
    info = error_details_pb2.ErrorInfo()
    return next(info.reason for detail in end.details if detail.Unpack(info))


def request_id_of(end: generation_pb2.GenerateEnd) -> str:
    info = error_details_pb2.RequestInfo()
    return next(info.request_id for detail in end.details if detail.Unpack(info))


@pytest.fixture
def stream(generation: Generation) -> Iterator[Stream]:
    stream = Stream(generation)
    yield stream
    stream.cancel()


def running(server: Server) -> dict[str, int]:
    """Calls that run, by method."""
    return {name: totals.running for name, totals in server.engine.totals.methods.items()}


def test_each_call_is_what_it_would_be_on_a_stream_of_its_own(generation: Generation, stream: Stream) -> None:
    asked = [options(seed=seed, max_tokens=10 + 7 * seed, prompt="The " * seed) for seed in range(24)]
    asked += [options(n=3), options(logprobs=True, top_logprobs=2), options(stop=["e"]), options(return_state=False)]
    numbers = stream.begin(*asked[:20]) + stream.begin(*asked[20:])
    assert [end.code for end in stream.read_ends(numbers)] == [0] * len(asked)
    for number, one in zip(numbers, asked, strict=True):
        alone = list(generation.Generate(generation_pb2.GenerateRequest(options=one)))
        for index in range(one.n or 1):
            ours = [piece for piece in stream.pieces[number] if piece.index == index]
            its = [piece for piece in alone if piece.index == index]
            assert "".join(piece.text for piece in ours) == "".join(piece.text for piece in its)
            assert [lp for piece in ours for lp in piece.logprobs] == [lp for piece in its for lp in piece.logprobs]
            assert [piece.HasField("result") for piece in ours[:-1]] == [False] * (len(ours) - 1)
            result, expected = ours[-1].result, its[-1].result
            for one_result in (result, expected):
                one_result.ClearField("timings")
            assert result == expected
    stream.close()
    assert not stream.read()


def test_calls_of_a_tick_share_messages(stream: Stream) -> None:
    numbers = stream.begin(*(options(seed=seed, max_tokens=400) for seed in range(16)))
    stream.read_ends(numbers)
    assert stream.messages < sum(len(stream.pieces[number]) for number in numbers) / 2


def test_an_error_of_one_call_is_told_as_for_a_call_of_its_own_and_ends_no_other(
    generation: Generation, stream: Stream
) -> None:
    wrong = [options(model="nobody"), options(max_tokens=0), options(session_id="nowhere"), options(state=b"x")]
    numbers = stream.begin(options(seed=7), *wrong, options(seed=8), request_id="mine-1")
    first, *failed, last = stream.read_ends(numbers)
    assert (first.code, last.code) == (0, 0)
    for end, one in zip(failed, wrong, strict=True):
        code, reason, violations, message = refused(
            lambda one=one: list(generation.Generate(generation_pb2.GenerateRequest(options=one)))  # type: ignore[misc]
        )
        assert (end.code, reason_of(end), end.message) == (code.value[0], reason, message)
        bad = error_details_pb2.BadRequest()
        told = [detail for detail in end.details if detail.Unpack(bad)]
        assert bool(told) == bool(violations)
        assert {one.field: one.description for one in bad.field_violations} == violations
        assert request_id_of(end) == "mine-1"


def test_a_session_goes_on_call_by_call(sessions: Sessions, stream: Stream, generation: Generation) -> None:
    made_by = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=5)).session
    for _ in range(3):
        (number,) = stream.begin(generation_pb2.GenerationOptions(session_id=made_by.id, prompt="x", max_tokens=9))
        assert stream.read_ends([number])[0].code == 0
    told = [stream.pieces[number][-1].result.session.position for number in range(3)]
    assert told == [10, 20, 30]
    found = sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=made_by.id)).session
    assert found.position == 30


def test_a_call_is_cancelled_by_its_number_and_its_session_stands_after_what_was_sent(
    sessions: Sessions, stream: Stream
) -> None:
    session = sessions.CreateSession(sessions_pb2.CreateSessionRequest(seed=5)).session
    cancelled, other = stream.begin(endless(session_id=session.id), endless(seed=3))
    stream.read_pieces(cancelled, other)
    stream.send(cancel=[cancelled, 999_999])
    assert stream.read_ends([cancelled])[0].code == CODE.CANCELLED.value[0]
    sent = stream.pieces[cancelled][-1].position

    def position() -> int:
        return sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session.position

    eventually(lambda: position() > 0)
    assert position() == sent
    before = len(stream.pieces[other])
    while len(stream.pieces[other]) == before:
        assert stream.read()


def test_a_deadline_ends_its_call_alone(stream: Stream) -> None:
    timed = generation_pb2.GenerateCall(number=900, request=generation_pb2.GenerateRequest(options=endless()))
    timed.timeout.FromMilliseconds(200)
    gone = generation_pb2.GenerateCall(number=901, request=generation_pb2.GenerateRequest(options=endless()))
    gone.timeout.FromMilliseconds(0)
    stream.send(calls=[timed, gone])
    (other,) = stream.begin(options(seed=2, max_tokens=300))
    ends = stream.read_ends([900, 901, other])
    assert [end.code for end in ends] == [CODE.DEADLINE_EXCEEDED.value[0]] * 2 + [0]


def test_a_number_may_be_used_again_once_its_call_has_ended_and_not_before(stream: Stream) -> None:
    stream.begin(options())
    stream.read_ends([0])
    del stream.ends[0]
    call = generation_pb2.GenerateCall(number=0, request=generation_pb2.GenerateRequest(options=endless()))
    stream.send(calls=[call])
    while len(stream.pieces[0]) < 3:
        assert stream.read()
    stream.send(calls=[call])
    code, reason, violations, _ = refused(lambda: list(iter(stream.read, False)))
    assert (code, reason, list(violations)) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST", ["number"])


@pytest.mark.parametrize("field", ["calls", "cancel"])
def test_a_message_has_a_bounded_number_of_calls(stream: Stream, field: str) -> None:
    many = many_calls.MOST_AT_ONCE + 1
    call = generation_pb2.GenerateCall(number=1, request=generation_pb2.GenerateRequest(options=endless()))
    stream.send(**{field: [call] * many if field == "calls" else list(range(many))})
    code, _, violations, message = refused(lambda: list(iter(stream.read, False)))
    assert (code, list(violations)) == (CODE.INVALID_ARGUMENT, [field])
    assert str(many_calls.MOST_AT_ONCE) in message


def test_when_the_stream_ends_so_do_its_calls(generation: Generation, server: Server) -> None:
    stream = Stream(generation)
    numbers = stream.begin(*(endless(seed=seed) for seed in range(4)))
    stream.read_pieces(*numbers)
    eventually(lambda: running(server)["charloom.v1.GenerationService/Generate"] == 4)  # those of earlier tests end
    stream.cancel()
    eventually(lambda: set(running(server).values()) == {0})


def test_calls_are_counted_one_by_one_and_the_stream_with_them(generation: Generation, server: Server) -> None:
    totals = server.engine.totals.methods
    stream = Stream(generation)
    stream.read_ends(stream.begin(options(), options(model="nobody"), options(seed=4)))
    (endless_one,) = stream.begin(endless())
    stream.read_pieces(endless_one)
    stream.send(cancel=[endless_one])
    stream.read_ends([endless_one])
    stream.close()
    assert not stream.read()
    eventually(lambda: not totals["charloom.v1.GenerationService/GenerateMany"].running)
    ended = totals["charloom.v1.GenerationService/Generate"].ended
    assert ended["NOT_FOUND", "MODEL_NOT_FOUND"] >= 1
    assert ended["CANCELLED", ""] >= 1
    assert ended["OK", ""] >= 2
    assert totals["charloom.v1.GenerationService/GenerateMany"].ended["OK", ""] >= 1


def test_a_client_that_does_not_read_holds_its_own_calls_back(server: Server) -> None:
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16))
    with grpc.insecure_channel(server.address, small_window) as channel:
        stream = Stream(Generation(channel))
        numbers = stream.begin(*(endless(seed=seed, logprobs=True, top_logprobs=20) for seed in range(8)))
        stream.read_pieces(*numbers)
        tenant = server.engine.totals.tenants[""]
        seen = [-1]

        def stands_still() -> bool:
            time.sleep(1.0)
            seen.append(tenant.generation_tokens)
            return seen[-1] == seen[-2]

        eventually(stands_still)
        assert running(server)["charloom.v1.GenerationService/Generate"] == 8
        before = {number: len(stream.pieces[number]) for number in numbers}
        while any(len(stream.pieces[number]) == before[number] for number in numbers):
            assert stream.read()
        stream.cancel()
        eventually(lambda: set(running(server).values()) == {0})


def test_further_calls_wait_while_a_stream_has_as_many_as_a_connection_may(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, max_streams=3)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        stream = Stream(Generation(channel))
        numbers = stream.begin(*(options(seed=seed, max_tokens=100) for seed in range(9)))
        most = 0
        while not set(numbers) <= stream.ends.keys():
            assert stream.read()
            most = max(most, len(stream.pieces.keys() - stream.ends.keys()))
        assert 1 <= most <= 3
        assert {end.code for end in stream.ends.values()} == {0}
        stream.cancel()


def test_calls_beyond_those_that_the_server_takes_are_refused_one_by_one(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, max_calls=4)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        stream = Stream(Generation(channel))
        numbers = stream.begin(*(endless(seed=seed) for seed in range(6)))
        stream.read_pieces(*numbers[:3])  # the stream is a call itself
        ends = stream.read_ends(numbers[3:])
        assert {(end.code, reason_of(end)) for end in ends} == {(CODE.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")}
        retry = error_details_pb2.RetryInfo()
        assert all(any(detail.Unpack(retry) for detail in end.details) for end in ends)
        stream.cancel()


def test_a_stream_without_calls_is_ended_after_a_while_and_one_with_calls_is_not(
    bundle: Bundle, decoder: Decoder
) -> None:
    settings = ServerSettings(grace_seconds=0, idle_seconds=1.5)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        stream = Stream(Generation(channel))
        (number,) = stream.begin(endless(logprobs=True, top_logprobs=20))
        stream.read_pieces(number)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            assert stream.read()
        stream.send(cancel=[number])
        code, reason, _, _ = refused(lambda: list(iter(stream.read, False)))
        assert (code, reason) == (CODE.DEADLINE_EXCEEDED, "CLIENT_IDLE")
        assert stream.ends[number].code == CODE.CANCELLED.value[0]


def test_a_server_that_stops_ends_the_calls_as_others_and_then_the_stream(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CLOSING_SECONDS", 60)
    settings = ServerSettings(grace_seconds=0.2)
    context = running_server([(bundle, decoder)], settings)
    server = context.__enter__()
    with grpc.insecure_channel(server.address) as channel:
        stream = Stream(Generation(channel))
        (number,) = stream.begin(endless())
        stream.read_pieces(number)
        stopping = threading.Thread(target=context.__exit__, args=(None, None, None))
        stopping.start()
        code, reason, _, _ = refused(lambda: list(iter(stream.read, False)))
        stopping.join()
    assert (code, reason) == (CODE.UNAVAILABLE, "DRAINING")
    assert stream.pieces[number][-1].result.finish_reason == generation_pb2.FINISH_REASON_DRAINING
    assert stream.ends[number].code == 0


def test_a_key_that_is_revoked_ends_the_stream_and_refuses_its_calls(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    shown, key = made("shop", (Scope.GENERATE,), utc_now(), None)
    with KeyFileEditor(file).editing(create=True) as editor:
        editor.content = editor.content.model_copy(update={"keys": (key,)})
    settings = ServerSettings(grace_seconds=0, keys=file)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        code, reason, _, _ = refused(lambda: Stream(Generation(channel)).read_ends([0]))
        assert (code, reason) == (CODE.UNAUTHENTICATED, "CREDENTIALS_MISSING")
        stream = Stream(Generation(channel), metadata=(("authorization", f"Bearer {shown}"),))
        (number,) = stream.begin(endless())
        stream.read_pieces(number)
        with KeyFileEditor(file).editing() as editor:
            editor.content = editor.content.model_copy(update={"keys": ()})
        code, reason, _, _ = refused(lambda: list(iter(stream.read, False)))
        assert (code, reason) == (CODE.UNAUTHENTICATED, "CREDENTIALS_INVALID")
