"""Sessions as values, over the wire, through generated stubs, against a real server."""

from __future__ import annotations

import base64
import itertools
import math
import queue
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    text_pb2,
)
from tests.integration.conftest import eventually, refused

Generation = generation_pb2_grpc.GenerationServiceStub
Sessions = sessions_pb2_grpc.SessionServiceStub
Reading = reading_pb2_grpc.ReadingServiceStub
Conversation = conversation_pb2_grpc.ConversationServiceStub
Session = sessions_pb2.Session

INVALID, OUT_OF_RANGE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
NOT_FOUND, ABORTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED
names = (f"s{number}" for number in itertools.count())


def create(sessions: Sessions, **fields: Any) -> Session:
    return sessions.CreateSession(sessions_pb2.CreateSessionRequest(**{"session_id": next(names)} | fields)).session


def get(sessions: Sessions, session: Session) -> Session:
    return sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=session.id)).session


def text_of(generation: Generation, session: Session, length: int, **fields: Any) -> str:
    options = generation_pb2.GenerationOptions(session_id=session.id, max_tokens=length, **fields)
    return generation.Complete(generation_pb2.CompleteRequest(options=options)).completions[0].text


def test_a_generation_makes_its_session_where_there_never_was_one(generation: Generation, sessions: Sessions) -> None:
    new = generation_pb2.NewSession(time_to_live=Duration(seconds=90))
    made, usual = Session(id=next(names)), create(sessions, seed=7)
    texts = [text_of(generation, made, 20, prompt="The ", seed=7, new_session=new) for _ in range(2)]
    assert texts == [text_of(generation, usual, 20, prompt="The ", seed=7) for _ in range(2)]
    found = get(sessions, made)
    assert (found.position, found.version, found.seed, found.time_to_live.seconds) == (48, 2, 7, 90)
    # This one has read something.
    again = refused(lambda: text_of(generation, made, 1, new_session=new, expected_position=0))
    assert again[:2] == (ABORTED, "STALE_POSITION")
    sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=made.id))
    gone = refused(lambda: text_of(generation, made, 1, new_session=new))
    assert gone[:2] == (NOT_FOUND, "SESSION_DELETED")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": "\N{SNOWMAN}"}, INVALID),
        ({"new_session": generation_pb2.NewSession(time_to_live=Duration(seconds=10**10))}, INVALID),
        ({"n": 2}, INVALID),
        ({"sampling": generation_pb2.Sampling(top_p=2)}, INVALID),
        ({"model": "nobody"}, NOT_FOUND),
        ({"expected_position": 3}, NOT_FOUND),
    ],
)
def test_a_call_that_is_refused_makes_no_session(
    generation: Generation, sessions: Sessions, fields: dict[str, Any], code: grpc.StatusCode
) -> None:
    session, asked = Session(id=next(names)), {"new_session": generation_pb2.NewSession()} | fields
    assert refused(lambda: text_of(generation, session, 1, **asked))[0] is code
    assert refused(lambda: get(sessions, session))[:2] == (NOT_FOUND, "SESSION_NOT_FOUND")


def test_a_call_that_made_its_session_and_broke_off_is_made_again(generation: Generation, sessions: Sessions) -> None:
    options = generation_pb2.GenerationOptions(
        session_id=next(names), max_tokens=3000, seed=7, new_session=generation_pb2.NewSession()
    )
    request = generation_pb2.GenerateRequest(options=options, call_id="first")
    call = generation.Generate(request)
    begun = next(iter(call)).text
    call.cancel()
    again = "".join(reply.text for reply in generation.Generate(request))
    assert again.startswith(begun)
    assert again == text_of(generation, create(sessions, seed=7), 3000)


def test_a_new_session_needs_an_id(generation: Generation) -> None:
    new = generation_pb2.NewSession()
    _, _, fields, _ = refused(lambda: text_of(generation, Session(), 1, new_session=new))
    assert list(fields) == ["new_session"]


def test_a_conversation_makes_its_session(conversation: Conversation, sessions: Sessions) -> None:
    session = Session(id=next(names))
    start = generation_pb2.GenerationOptions(session_id=session.id, seed=7, new_session=generation_pb2.NewSession())
    asked = [
        conversation_pb2.ConverseRequest(start=start),
        conversation_pb2.ConverseRequest(generate=conversation_pb2.Generate(max_tokens=9)),
    ]
    list(conversation.Converse(iter(asked)))
    assert (get(sessions, session).position, get(sessions, session).seed) == (9, 7)


def test_a_session_is_fed_put_back_copied_renewed_and_forgotten(generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=1)
    fed = sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="The ", expected_position=0))
    assert (fed.session.position, fed.session.version, fed.session.earliest_position) == (4, 1, 0)
    text = text_of(generation, session, 60)
    put_back = sessions.RewindSession(
        sessions_pb2.RewindSessionRequest(session_id=session.id, position=34, expected_position=64)
    )
    assert (put_back.session.position, put_back.session.seed) == (34, 1)
    copies = sessions.ForkSession(
        sessions_pb2.ForkSessionRequest(
            session_id=session.id, position=14, count=2, seed=1, new_session_ids=["f1", "f2"]
        )
    ).sessions
    assert [(one.id, one.position, one.seed, one.origin.session_id) for one in copies] == [
        ("f1", 14, 1, session.id),
        ("f2", 14, 2, session.id),
    ]
    assert text_of(generation, session, 30) == text[30:]
    assert text_of(generation, copies[0], 50) == text[10:]
    assert text_of(generation, copies[1], 50) != text[10:]
    renewed = sessions.UpdateSession(
        sessions_pb2.UpdateSessionRequest(session_id=session.id, time_to_live=Duration(seconds=7200))
    ).session
    assert renewed.time_to_live.seconds == 7200
    receipt = sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=session.id))
    assert receipt.session.position == 64
    assert receipt.delete_time.ToDatetime() >= receipt.session.update_time.ToDatetime()
    for call in (
        lambda: get(sessions, session),
        lambda: sessions.ForkSession(sessions_pb2.ForkSessionRequest(session_id=session.id)),
        lambda: sessions.RewindSession(sessions_pb2.RewindSessionRequest(session_id=session.id, position=1)),
        lambda: sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)),
    ):
        assert refused(call)[:2] == (NOT_FOUND, "SESSION_DELETED")


def test_positions_that_cannot_be_had(sessions: Sessions) -> None:
    session = create(sessions)
    sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="a" * 40))
    rewind = sessions_pb2.RewindSessionRequest(session_id=session.id, position=41)
    code, reason, _, message = refused(lambda: sessions.RewindSession(rewind))
    assert (code, reason) == (OUT_OF_RANGE, "POSITION_NOT_KEPT")
    assert "from 0 to 40" in message
    stale = sessions_pb2.RewindSessionRequest(session_id=session.id, position=3, expected_position=39)
    assert refused(lambda: sessions.RewindSession(stale))[:2] == (ABORTED, "STALE_POSITION")
    fork = sessions_pb2.ForkSessionRequest(session_id=session.id, count=10_000)
    code, _, violations, _ = refused(lambda: sessions.ForkSession(fork))
    assert (code, set(violations)) == (INVALID, {"count"})


def test_states_are_blended(generation: Generation, sessions: Sessions) -> None:
    one, two = create(sessions, seed=1), create(sessions, seed=2)
    for session in (one, two):
        text_of(generation, session, 30)
    sources = [reading_source(one, 3), reading_source(two, 1)]
    blend = sessions.BlendSessions(sessions_pb2.BlendSessionsRequest(sources=sources, seed=3)).session
    assert (blend.position, blend.earliest_position, blend.seed) == (30, 30, 3)
    assert len(text_of(generation, blend, 30)) == 30
    for weight in (0, -1, math.nan, math.inf):
        wrong = [reading_source(one, 1), reading_source(two, weight)]
        code, _, violations, _ = refused(
            lambda wrong=wrong: sessions.BlendSessions(sessions_pb2.BlendSessionsRequest(sources=wrong))
        )
        assert (code, set(violations)) == (INVALID, {"sources[1].weight"})


def reading_source(session: Session, weight: float) -> sessions_pb2.BlendSource:
    return sessions_pb2.BlendSource(session_id=session.id, weight=weight)


def test_a_state_is_exported_imported_and_used_without_a_session(generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=5)
    text_of(generation, session, 40)
    exported = sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id))
    imported = sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=exported.state, session_id=next(names)))
    assert imported.exact
    options = generation_pb2.GenerationOptions(state=exported.state, max_tokens=25, return_state=True)
    first = generation.Complete(generation_pb2.CompleteRequest(options=options)).completions[0]
    further = generation_pb2.GenerationOptions(state=first.result.state, max_tokens=25)
    second = generation.Complete(generation_pb2.CompleteRequest(options=further)).completions[0]
    assert first.text + second.text == text_of(generation, session, 50) == text_of(generation, imported.session, 50)
    assert not second.result.state


def test_states_that_cannot_be_opened(sessions: Sessions, channel: grpc.Channel) -> None:
    session = create(sessions)
    state = sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)).state

    def import_(data: bytes) -> Any:
        return lambda: sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=data))

    corrupt = (grpc.StatusCode.DATA_LOSS, "SEALED_STATE_CORRUPT")
    for wrong in (b"", b"x", state[:-1], state + b"x", state[:100] + bytes([state[100] ^ 1]) + state[101:]):
        assert refused(import_(wrong))[:2] == corrupt
    assert refused(import_(state[:4] + b"\x09" + state[5:]))[:2] == (INVALID, "SEALED_STATE_VERSION")
    mine = sessions.ExportSession(
        sessions_pb2.ExportSessionRequest(session_id=session.id, time_to_live=Duration(nanos=1_000_000))
    )
    time.sleep(0.01)
    assert refused(import_(mine.state))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "SEALED_STATE_EXPIRED")
    foreign = sessions_pb2.ImportSessionRequest(state=state)
    code, reason, _, _ = refused(lambda: sessions.ImportSession(foreign, metadata=(("charloom-tenant", "else"),)))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SEALED_STATE_OF_ANOTHER_TENANT")
    with pytest.raises(grpc.RpcError) as huge:
        sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=bytes(100 * 2**20)))
    assert huge.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    assert get(sessions, session).version == 0  # the server is well


def test_a_state_of_another_model_is_told_from_one_with_another_key(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    keys = {name: tmp_path / name for name in ("one", "two")}
    for number, file in enumerate(keys.values()):
        file.touch(mode=0o600)
        file.write_text(base64.b64encode(bytes([number] * 32)).decode())
    retrained = replace(bundle, manifest=bundle.manifest.model_copy(update={"digest": "0" * 64}))

    def served(model: Bundle, key: str) -> AbstractContextManager[Server]:
        return running_server(
            [(model, decoder)], ServerSettings(sealing_keys=keys[key], grace_seconds=0, trust_proxy="127.0.0.1")
        )

    with served(bundle, "one") as server, grpc.insecure_channel(server.address) as channel:
        session = create(Sessions(channel))
        state = Sessions(channel).ExportSession(sessions_pb2.ExportSessionRequest(session_id=session.id)).state
    request = sessions_pb2.ImportSessionRequest(state=state)
    for model, key, expected in (
        (bundle, "two", (grpc.StatusCode.DATA_LOSS, "SEALED_STATE_CORRUPT")),
        (retrained, "one", (grpc.StatusCode.FAILED_PRECONDITION, "SEALED_STATE_OF_ANOTHER_MODEL")),
    ):
        with served(model, key) as server, grpc.insecure_channel(server.address) as channel:
            stub = Sessions(channel)
            assert refused(lambda stub=stub: stub.ImportSession(request))[:2] == expected
    with served(bundle, "one") as server, grpc.insecure_channel(server.address) as channel:
        assert Sessions(channel).ImportSession(request).exact


def test_tenants_are_apart(sessions: Sessions, generation: Generation) -> None:
    mine = (("charloom-tenant", "a"),)
    request = sessions_pb2.CreateSessionRequest(session_id="shared-name", seed=4)
    sessions.CreateSession(request, metadata=mine)
    sessions.CreateSession(request, metadata=(("charloom-tenant", "b"),))
    listed = sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=mine).sessions
    assert [one.id for one in listed] == ["shared-name"]
    assert (
        refused(lambda: sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="shared-name")))[0] is NOT_FOUND
    )
    code, _, violations, _ = refused(
        lambda: sessions.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=(("charloom-tenant", "a/b"),))
    )
    assert (code, set(violations)) == (INVALID, {"charloom-tenant"})


def test_texts_are_scored(reading: Reading, sessions: Sessions) -> None:
    answer = reading.Score(reading_pb2.ScoreRequest(text="The cat is.", top_logprobs=2))
    assert "".join(one.chosen.symbol.decode() for one in answer.logprobs) == "The cat is."
    assert [len(one.top) for one in answer.logprobs] == [2] * 11
    nats = -sum(one.chosen.logprob for one in answer.logprobs) / 11
    assert answer.nats_per_token == pytest.approx(nats)
    assert answer.bits_per_character == pytest.approx(nats / math.log(2))
    assert answer.perplexity == pytest.approx(math.exp(nats))
    session = create(sessions)
    sessions.FeedSession(sessions_pb2.FeedSessionRequest(session_id=session.id, text="The cat"))
    rest = reading.Score(reading_pb2.ScoreRequest(text=" is.", session_id=session.id))
    assert [one.chosen.logprob for one in rest.logprobs] == [one.chosen.logprob for one in answer.logprobs[7:]]
    assert not reading.Score(reading_pb2.ScoreRequest()).logprobs
    assert refused(lambda: reading.Score(reading_pb2.ScoreRequest(text="日")))[2].keys() == {"text"}
    assert refused(lambda: reading.Score(reading_pb2.ScoreRequest(text="a", top_logprobs=21)))[0] is INVALID


def test_what_comes_next_is_peeked_at(reading: Reading, generation: Generation, sessions: Sessions) -> None:
    session = create(sessions, seed=6)
    options = generation_pb2.GenerationOptions(session_id=session.id, prompt="The ", max_tokens=3)
    peeked = reading.Peek(reading_pb2.PeekRequest(options=options))
    assert peeked.position == 4
    for one in peeked.distributions:
        assert sum(math.exp(other.logprob) for other in one.top) == pytest.approx(1, abs=1e-5)
    assert get(sessions, session).version == 0
    assert text_of(generation, session, 3, prompt="The ") == peeked.text
    options.n = 2
    assert refused(lambda: reading.Peek(reading_pb2.PeekRequest(options=options)))[2].keys() == {"n"}


def test_text_is_observed_as_it_comes(reading: Reading, sessions: Sessions) -> None:
    session = create(sessions)
    sent: queue.Queue[reading_pb2.ObserveRequest | None] = queue.Queue()
    answers = reading.Observe(iter(sent.get, None))
    sent.put(reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id=session.id)))
    told = []
    for number, part in enumerate(("The ", "", "cat")):
        sent.put(reading_pb2.ObserveRequest(text=part))
        answer = next(answers)
        told += [one.chosen.logprob for one in answer.logprobs]
        assert answer.position == [4, 4, 7][number]
    sent.put(None)
    assert list(answers) == []
    scored = reading.Score(reading_pb2.ScoreRequest(text="The cat"))
    assert told == [one.chosen.logprob for one in scored.logprobs]
    assert get(sessions, session).position == 7


def observed(*events: reading_pb2.ObserveRequest) -> Iterator[reading_pb2.ObserveRequest]:
    return iter(events)


def test_observing_out_of_order_is_refused_and_lets_its_session_go(
    server: Server, reading: Reading, sessions: Sessions
) -> None:
    session = create(sessions)
    start = reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id=session.id))
    text = reading_pb2.ObserveRequest(text="a")
    skip = reading_pb2.ObserveStart(unknown_characters=text_pb2.UNKNOWN_CHARACTERS_SKIP)
    for wrong, field in (
        ([], "start"),
        ([text], "start"),
        ([start, text, start], "text"),
        ([start, reading_pb2.ObserveRequest(text="日")], "text"),
    ):
        code, _, violations, _ = refused(lambda wrong=wrong: list(reading.Observe(observed(*wrong))))
        assert (code, set(violations)) == (INVALID, {field})
    eventually(lambda: server.engine.sessions.writing == 0)
    assert get(sessions, session).position == 1  # the text that was answered
    answers = list(
        reading.Observe(observed(reading_pb2.ObserveRequest(start=skip), reading_pb2.ObserveRequest(text="日")))
    )
    assert [len(answer.logprobs) for answer in answers] == [0]


def told(**event: Any) -> conversation_pb2.ConverseRequest:
    return conversation_pb2.ConverseRequest(**event)


def test_a_text_is_steered_while_it_runs(
    conversation: Conversation, generation: Generation, sessions: Sessions
) -> None:
    session = create(sessions, seed=7)
    sent: queue.Queue[conversation_pb2.ConverseRequest | None] = queue.Queue()
    replies = conversation.Converse(iter(sent.get, None))
    sent.put(told(start=generation_pb2.GenerationOptions(session_id=session.id, prompt="The ")))
    first = next(replies)
    assert (first.applied, first.position) == (0, 4)
    commands = [
        told(generate=conversation_pb2.Generate()),
        told(sampling=generation_pb2.Sampling(temperature=0)),
        told(inject="cat is"),
        told(pause=Empty()),
        told(generate=conversation_pb2.Generate(max_tokens=12)),
    ]
    parts, applied = [""], [4]
    for number, command in enumerate(commands, start=1):
        sent.put(command)
        pieces = 0
        while number not in (1, 5) or pieces == 0:
            reply = next(replies)
            if reply.WhichOneof("event") == "applied":
                assert reply.applied == number
                applied.append(reply.position)
                parts.append("")
                if number not in (1, 5):
                    break
            elif reply.text:
                pieces += 1
                parts[-1] += reply.text
    sent.put(None)
    ended = None
    for reply in replies:
        parts[-1] += reply.text
        if reply.HasField("ended"):
            ended = reply.ended
    assert ended is not None
    assert ended.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert len(parts[-1]) == 12
    greedy = generation_pb2.Sampling(temperature=0)
    alone = create(sessions, seed=7)
    assert text_of(generation, alone, len(parts[1]), prompt="The ") == parts[1]
    if parts[2]:
        assert text_of(generation, alone, len(parts[2]), sampling=greedy) == parts[2]
    rest = text_of(generation, alone, len(parts[3]) + 12, sampling=greedy, prompt="cat is")
    assert rest == parts[3] + parts[5]
    assert applied == sorted(applied)
    eventually(lambda: get(sessions, session).position == get(sessions, alone).position)


def test_conversing_out_of_order_is_refused_and_lets_its_session_go(
    server: Server, conversation: Conversation, sessions: Sessions
) -> None:
    session = create(sessions)
    start = told(start=generation_pb2.GenerationOptions(session_id=session.id))
    for wrong, fields in (
        ([], {"start"}),
        ([told(pause=Empty())], {"start"}),
        ([start, start], {"event"}),
        ([start, told()], {"event"}),
        ([start, told(inject="日")], {"inject"}),
        ([start, told(sampling=generation_pb2.Sampling(temperature=-1))], {"sampling.temperature"}),
        ([start, told(generate=conversation_pb2.Generate(max_tokens=2**31))], {"generate.max_tokens"}),
        ([told(start=generation_pb2.GenerationOptions(n=2))], {"n"}),
    ):
        code, _, violations, _ = refused(lambda wrong=wrong: list(conversation.Converse(iter(wrong))))
        assert (code, set(violations)) == (INVALID, fields)
    eventually(lambda: server.engine.sessions.writing == 0)
    stream = conversation.Converse(iter([start, told(generate=conversation_pb2.Generate(max_tokens=60_000))]))
    for _ in range(4):
        next(stream)
    stream.cancel()
    eventually(lambda: server.engine.sessions.writing == 0 and server.engine.models[0].loom.live == 0)


def test_bytes_that_are_no_message_are_refused_in_a_stream_too(channel: grpc.Channel) -> None:
    for method in ("ReadingService/Observe", "ConversationService/Converse"):
        call = channel.stream_stream(f"/charloom.v1.{method}")
        assert refused(lambda call=call: list(call(iter([b"\xff\xff"]))))[0] is INVALID


def test_a_stream_is_resumed_where_its_client_stands(
    server: Server, generation: Generation, sessions: Sessions
) -> None:
    session, alone = create(sessions, seed=8), create(sessions, seed=8)
    options = generation_pb2.GenerationOptions(session_id=session.id, max_tokens=3000, stop=["qqqqq"])
    stream = generation.Generate(generation_pb2.GenerateRequest(options=options, call_id="c1"))
    text, position = "", 0
    while len(text) < 300:
        message = next(stream)
        text, position = text + message.text, message.position
    stream.cancel()
    again = list(
        generation.Generate(generation_pb2.GenerateRequest(options=options, call_id="c1", resume_position=position))
    )
    text += "".join(message.text for message in again)
    assert text == text_of(generation, alone, 3000)
    assert again[-1].result.usage.completion_tokens == 3000
    assert again[-1].result.session.version == 1
    for wrong, field in (({"call_id": "no spaces"}, "call_id"), ({"resume_position": 7}, "resume_position")):
        request = generation_pb2.GenerateRequest(options=options, **wrong)
        code, _, violations, _ = refused(lambda request=request: list(generation.Generate(request)))
        assert (code, set(violations)) == (INVALID, {field})
