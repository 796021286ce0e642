"""Many careless clients at once: nothing they send is the server's fault, and nothing of them stays behind."""

from __future__ import annotations

import collections
import random
import threading
import time
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
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
)
from tests.waiting import eventually

SECONDS, MOST_SECONDS, CLIENTS = 6.0, 60.0, 12
"""How long they go on, and how long on a machine that is too slow to do enough in that time."""
NUMBERS = [0.0, -0.0, 0.5, 1.0, 1e-45, 1e-30, 1e-6, 100.0, 101.0, -1.0, 3e38, float("nan"), float("inf")]
COUNTS = [0, 1, 2, 7, 2**31, 2**32 - 1]
SEEDS = [0, 1, 2**63, 2**64 - 1]
TEXTS = ["", "a", "The ", "é", "\0", "👩", "no\n" * 50, "../x", "x" * 3000, "x" * 70_000]
SESSIONS = [f"session-{number}" for number in range(10)]
STATES: list[bytes] = []
"""What was exported."""


def options(draw: random.Random) -> generation_pb2.GenerationOptions:
    found = generation_pb2.GenerationOptions(max_tokens=draw.choice([1, 5, 50, 300, 2000]))
    if draw.random() < 0.6:
        found.session_id = draw.choice(SESSIONS if draw.random() < 0.95 else TEXTS)
    if draw.random() < 0.5:
        found.prompt = draw.choice(TEXTS)
        found.unknown_characters = draw.choice([0, 2, 2, 2, 7])
    for field in ("temperature", "top_p", "min_p"):
        if draw.random() < 0.2:
            setattr(found.sampling, field, draw.choice(NUMBERS))
    for field in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        if draw.random() < 0.1:
            setattr(found.sampling, field, draw.choice([1.0, 1.0, *NUMBERS]))
    if draw.random() < 0.2:
        found.sampling.top_k = draw.choice(COUNTS)
    if draw.random() < 0.1:
        found.sampling.logit_bias.add(characters=draw.choice(TEXTS), bias=draw.choice(NUMBERS))
    if draw.random() < 0.05:
        found.sampling.allowed_characters = draw.choice(TEXTS)
    if draw.random() < 0.1:
        found.sampling.forbidden_characters = draw.choice(TEXTS)
    if draw.random() < 0.2:
        found.stop.extend(draw.choices(["e", "th", *TEXTS], k=draw.choice([1, 1, 2, 20])))
        found.include_stop = draw.random() < 0.5
        found.min_tokens = draw.choice([0, 0, 3, 400])
    if draw.random() < 0.1:
        found.logprobs = draw.random() < 0.9
        found.top_logprobs = draw.choice(COUNTS)
    if draw.random() < 0.1:
        found.n = draw.choice([2, 3, 3, *COUNTS])
    if draw.random() < 0.2:
        found.seed = draw.choice(SEEDS)
    if draw.random() < 0.05:
        found.state = draw.choice([b"x", b"CLST" + bytes(60), *STATES])
    found.return_state = draw.random() < 0.1
    if draw.random() < 0.05:
        found.max_tokens = draw.choice(COUNTS)
        found.expected_position = draw.choice(SEEDS)
    return found


def value_call(draw: random.Random, channel: grpc.Channel) -> None:
    """One of the calls for which a session is a value."""
    sessions = sessions_pb2_grpc.SessionServiceStub(channel)
    one, other = draw.choices(SESSIONS, k=2)
    position = draw.choice([0, 1, 30, 300, 2**63])
    kind = draw.choice(["feed", "rewind", "fork", "blend", "export", "import", "renew", "list"])
    if kind == "feed":
        sessions.FeedSession(
            sessions_pb2.FeedSessionRequest(
                session_id=one, text=draw.choice(TEXTS), unknown_characters=draw.choice([0, 2, 2, 7])
            ),
            timeout=draw.choice([0.001, 5]),
        )
    elif kind == "rewind":
        sessions.RewindSession(sessions_pb2.RewindSessionRequest(session_id=one, position=position), timeout=5)
    elif kind == "fork":
        fork = sessions_pb2.ForkSessionRequest(session_id=one, new_session_ids=[other])
        if draw.random() < 0.5:
            fork.position = position
        if draw.random() < 0.2:
            fork.count = draw.choice(COUNTS)
        sessions.ForkSession(fork, timeout=5)
    elif kind == "blend":
        sources = [sessions_pb2.BlendSource(session_id=id, weight=draw.choice([1, *NUMBERS])) for id in (one, other)]
        sessions.BlendSessions(sessions_pb2.BlendSessionsRequest(sources=sources), timeout=5)
    elif kind == "export":
        STATES.append(sessions.ExportSession(sessions_pb2.ExportSessionRequest(session_id=one), timeout=5).state)
    elif kind == "import" and STATES:
        sessions.ImportSession(sessions_pb2.ImportSessionRequest(state=draw.choice(STATES), session_id=one), timeout=5)
    elif kind == "renew":
        renewal = sessions_pb2.UpdateSessionRequest(session_id=one)
        renewal.time_to_live.nanos = draw.choice([-1, 0, 50_000_000, 999_999_999])
        sessions.UpdateSession(renewal, timeout=5)
    else:
        sessions.ListSessions(sessions_pb2.ListSessionsRequest(page_size=draw.choice(COUNTS)), timeout=5)


def reading_call(draw: random.Random, channel: grpc.Channel) -> None:
    """One of the calls that read, or a conversation."""
    reading = reading_pb2_grpc.ReadingServiceStub(channel)
    session, text = draw.choice(["", *SESSIONS]), draw.choice(TEXTS)
    kind = draw.choice(["score", "peek", "observe", "converse"])
    if kind == "score":
        request = reading_pb2.ScoreRequest(session_id=session, text=text, top_logprobs=draw.choice([0, 3, 21]))
        reading.Score(request, timeout=draw.choice([0.001, 5]))
    elif kind == "peek":
        asked = options(draw)
        if draw.random() < 0.7:
            for field in ("n", "stop", "logprobs", "top_logprobs", "return_state", "max_tokens"):
                asked.ClearField(field)
        reading.Peek(reading_pb2.PeekRequest(options=asked, top=draw.choice([0, 1, 5, 2**32 - 1])), timeout=5)
    elif kind == "observe":
        events = [reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id=session))]
        events += [reading_pb2.ObserveRequest(text=draw.choice(TEXTS[:4])) for _ in range(draw.randint(0, 4))]
        draw.random() < 0.1 and draw.shuffle(events)
        answers: Any = reading.Observe(iter(events), timeout=5)
        for _, _ in zip(answers, range(draw.choice([0, 1, 10])), strict=False):
            pass
        answers.cancel()
    else:
        start = generation_pb2.GenerationOptions(session_id=session, prompt=draw.choice(TEXTS[:3]))
        commands = [conversation_pb2.ConverseRequest(start=start)]
        for _ in range(draw.randint(0, 5)):
            event: dict[str, Any] = draw.choice(
                [
                    {"generate": conversation_pb2.Generate(max_tokens=draw.choice([0, 1, 50, 2**31]))},
                    {"inject": draw.choice(TEXTS[:4])},
                    {"sampling": generation_pb2.Sampling(temperature=draw.choice(NUMBERS))},
                    {"pause": Empty()},
                    {},
                ]
            )
            commands.append(conversation_pb2.ConverseRequest(**event))
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        replies: Any = stub.Converse(iter(commands), timeout=draw.choice([0.01, 5]))
        for _, _ in zip(replies, range(draw.choice([0, 1, 5, 50])), strict=False):
            pass
        replies.cancel()


def one_call(draw: random.Random, channel: grpc.Channel) -> None:
    if draw.random() < 0.4:
        draw.choice([value_call, reading_call])(draw, channel)
        return
    generation = generation_pb2_grpc.GenerationServiceStub(channel)
    sessions = sessions_pb2_grpc.SessionServiceStub(channel)
    kind = draw.random()
    if kind < 0.25:
        generation.Complete(
            generation_pb2.CompleteRequest(options=options(draw)), timeout=draw.choice([0.001, 0.05, 5])
        )
    elif kind < 0.75:
        request = generation_pb2.GenerateRequest(
            options=options(draw), call_id=draw.choice(["", "a", "b", "not an id"])
        )
        if draw.random() < 0.3:
            request.resume_position = draw.choice([0, 1, 10, 100, 2**63])
        stream: Any = generation.Generate(request, timeout=5)
        for _, _ in zip(stream, range(draw.choice([0, 1, 3, 10**6])), strict=False):
            pass
        stream.cancel()
    elif kind < 0.85:
        sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id=draw.choice(SESSIONS)), timeout=5)
    elif kind < 0.9:
        sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=draw.choice(SESSIONS)), timeout=5)
    else:
        raw = bytearray(generation_pb2.GenerateRequest(options=options(draw)).SerializeToString())
        for _ in range(4):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        method = draw.choice(["GenerationService/Complete", "SessionService/ForkSession", "ReadingService/Score"])
        channel.unary_unary(f"/charloom.v1.{method}")(bytes(raw), timeout=5)


def test_careless_clients_leave_nothing_behind(
    bundle: Bundle, decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: collections.Counter[str] = collections.Counter()

    def few() -> bool:
        return min(outcomes["OK"], outcomes["INVALID_ARGUMENT"]) <= 100

    def client(number: int, address: str) -> None:
        draw, began = random.Random(number), time.monotonic()
        while time.monotonic() < began + SECONDS or (few() and time.monotonic() < began + MOST_SECONDS):
            with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                for _ in range(draw.randint(1, 30)):
                    try:
                        one_call(draw, channel)
                        outcomes["OK"] += 1
                    except grpc.RpcError as problem:
                        outcomes[problem.code().name] += 1  # type: ignore[attr-defined]

    settings = ServerSettings(grace_seconds=0, max_rows=8, max_waiting=4)
    with running_server([(bundle, decoder)], settings) as server:
        clients = [threading.Thread(target=client, args=(number, server.address)) for number in range(CLIENTS)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        loom = server.engine.models[0].loom
        eventually(lambda: server.engine.sessions.writing == loom.live == loom.waiting == 0)
        assert loom.working
        assert loom.slots == 0
        with grpc.insecure_channel(server.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            request = generation_pb2.CompleteRequest(options=generation_pb2.GenerationOptions(max_tokens=20))
            assert len(stub.Complete(request).completions[0].text) == 20
    assert not few(), outcomes
    assert "unexpected error" not in caplog.text
    assert outcomes["INTERNAL"] == outcomes["UNKNOWN"] == 0, outcomes
