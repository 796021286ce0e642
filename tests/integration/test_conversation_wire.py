"""A text that is steered while it runs, over the wire, through generated stubs, against a real server."""

from __future__ import annotations

import queue
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from charloom.server.app import Server
from charloom.v1 import conversation_pb2, generation_pb2
from tests.integration.conftest import refused
from tests.integration.wire_sessions import (
    INVALID,
    Conversation,
    Generation,
    Session,
    Sessions,
    create,
    get,
    names,
    text_of,
)
from tests.waiting import eventually


def test_a_conversation_makes_its_session(conversation: Conversation, sessions: Sessions) -> None:
    session = Session(id=next(names))
    start = generation_pb2.GenerationOptions(session_id=session.id, seed=7, new_session=generation_pb2.NewSession())
    asked = [
        conversation_pb2.ConverseRequest(start=start),
        conversation_pb2.ConverseRequest(generate=conversation_pb2.Generate(max_tokens=9)),
    ]
    list(conversation.Converse(iter(asked)))
    assert (get(sessions, session).position, get(sessions, session).seed) == (9, 7)


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
