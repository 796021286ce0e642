"""Calls that stream both ways and wait for their client: what ends them, and what becomes of their sessions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    reading_pb2,
    reading_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from tests.integration.conftest import refused
from tests.unit.engine.looms import Slow
from tests.waiting import eventually

Sent = queue.Queue[Any]
"""What a client sends; None is the end of it."""
Open = Callable[[grpc.Channel, Sent], Any]


def observation(channel: grpc.Channel, sent: Sent) -> Any:
    sent.put(reading_pb2.ObserveRequest(start=reading_pb2.ObserveStart(session_id="s")))
    sent.put(reading_pb2.ObserveRequest(text="a"))
    return reading_pb2_grpc.ReadingServiceStub(channel).Observe(iter(sent.get, None))


def conversation(channel: grpc.Channel, sent: Sent) -> Any:
    start = generation_pb2.GenerationOptions(session_id="s", prompt="a")
    sent.put(conversation_pb2.ConverseRequest(start=start))
    return conversation_pb2_grpc.ConversationServiceStub(channel).Converse(iter(sent.get, None))


@pytest.fixture(params=[observation, conversation])
def open_call(request: pytest.FixtureRequest) -> Open:
    found: Open = request.param
    return found


@pytest.fixture
def sent() -> Iterator[Sent]:
    queued: Sent = queue.Queue()
    yield queued
    queued.put(None)


def position(channel: grpc.Channel) -> int:
    stub = sessions_pb2_grpc.SessionServiceStub(channel)
    return stub.GetSession(sessions_pb2.GetSessionRequest(session_id="s")).session.position


def create(channel: grpc.Channel) -> None:
    sessions_pb2_grpc.SessionServiceStub(channel).CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))


def test_it_is_told_that_the_server_stops(bundle: Bundle, decoder: Decoder, open_call: Open, sent: Sent) -> None:
    with ThreadPoolExecutor(1) as pool:
        with running_server([(bundle, decoder)], ServerSettings(grace_seconds=60)) as server:
            channel = grpc.insecure_channel(server.address)
            create(channel)
            replies = open_call(channel, sent)
            next(replies)
            refusal = pool.submit(refused, lambda: list(replies))
        assert refusal.result()[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        channel.close()


def test_a_call_without_a_first_message_is_told_so_too(bundle: Bundle, decoder: Decoder, sent: Sent) -> None:
    with ThreadPoolExecutor(1) as pool:
        with running_server([(bundle, decoder)], ServerSettings(grace_seconds=60)) as server:
            channel = grpc.insecure_channel(server.address)
            replies = reading_pb2_grpc.ReadingServiceStub(channel).Observe(iter(sent.get, None))
            refusal = pool.submit(refused, lambda: list(replies))
            create(channel)  # on the same connection: the other call has arrived
        assert refusal.result()[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        channel.close()


def test_a_client_that_is_idle_for_too_long_loses_the_call_and_its_session_is_free(
    bundle: Bundle, decoder: Decoder, open_call: Open, sent: Sent
) -> None:
    settings = ServerSettings(grace_seconds=0, idle_seconds=1)
    with running_server([(bundle, decoder)], settings) as server, grpc.insecure_channel(server.address) as channel:
        create(channel)
        replies = open_call(channel, sent)
        next(replies)
        code, reason, _, message = refused(lambda: list(replies))
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "CLIENT_IDLE")
        assert "1 s" in message
        assert "--idle-seconds" in message
        eventually(lambda: server.engine.sessions.writing == 0)
        assert position(channel) == 1


def test_a_conversation_is_not_idle_while_its_text_is_generated(bundle: Bundle, decoder: Decoder, sent: Sent) -> None:
    settings, slow = ServerSettings(grace_seconds=0, idle_seconds=1), Slow(decoder)
    with running_server([(bundle, slow)], settings) as server, grpc.insecure_channel(server.address) as channel:
        create(channel)
        slow.gate = threading.Event()
        sent.put(conversation_pb2.ConverseRequest(start=generation_pb2.GenerationOptions(session_id="s")))
        sent.put(conversation_pb2.ConverseRequest(generate=conversation_pb2.Generate(max_tokens=2000)))
        replies = conversation_pb2_grpc.ConversationServiceStub(channel).Converse(iter(sent.get, None))
        opened = threading.Timer(2, slow.gate.set)
        opened.start()
        positions: list[int] = []
        refusal = refused(lambda: positions.extend(reply.position for reply in replies))
        opened.join()
        assert refusal[1] == "CLIENT_IDLE"
        assert positions[-1] == 2000
