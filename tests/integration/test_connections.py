"""Connections over which nothing is sent: clients that vanish, and clients that ask for signs of life."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.client import Applied, Client, Ended
from charloom.engine.decoding.decoder import Decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    generation_pb2,
    models_pb2,
    models_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from tests.unit.client.proxy import Proxy
from tests.waiting import eventually

PING_ANSWERED = b"\0\0\x08\x06\x01\0\0\0\0"
"""The head of a frame of HTTP/2."""


class Wire:
    """Forwards one TCP connection until it is cut: then nothing passes, and neither side is told."""

    def __init__(self, port: int) -> None:
        self.cut = False
        self.pings_answered = 0
        """By the client."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._over = False
        self._thread = threading.Thread(target=self._forward, args=(port,))
        self._thread.start()

    def _forward(self, port: int) -> None:
        client, _ = self._listening.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while not self._over:
                for key, _ in ready.select(0.02) if not self.cut else ():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    self.pings_answered += key.fileobj is client and data.count(PING_ANSWERED)
                    with contextlib.suppress(OSError):
                        key.data.sendall(data)
                    if not data:
                        return
                if self.cut:
                    time.sleep(0.02)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._listening.close()


@pytest.fixture
def sent() -> Iterator[queue.Queue[Any]]:
    queued: queue.Queue[Any] = queue.Queue()
    yield queued
    queued.put(None)


def converse(channel: grpc.Channel, sent: queue.Queue[Any]) -> Any:
    """A conversation that has begun and says nothing, with a session."""
    sessions_pb2_grpc.SessionServiceStub(channel).CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
    sent.put(conversation_pb2.ConverseRequest(start=generation_pb2.GenerationOptions(session_id="s", prompt="a")))
    replies = conversation_pb2_grpc.ConversationServiceStub(channel).Converse(iter(sent.get, None))
    next(replies)
    return replies


def test_a_client_that_vanishes_without_a_word_gives_its_session_back(
    bundle: Bundle, decoder: Decoder, sent: queue.Queue[Any]
) -> None:
    settings = ServerSettings(grace_seconds=0, keepalive_seconds=0.3, keepalive_timeout_seconds=4)
    with running_server([(bundle, decoder)], settings) as server:
        wire = Wire(server.port)
        with grpc.insecure_channel(wire.address) as channel:
            replies = converse(channel, sent)
            eventually(lambda: wire.pings_answered >= 3)
            assert server.engine.sessions.writing == 1, "a client that is there and silent keeps it"
            wire.cut = True
            eventually(lambda: server.engine.sessions.writing == 0)
            replies.cancel()
        wire.close()


@pytest.mark.parametrize(("allowed", "cut"), [(0.2, False), (60.0, True)])
def test_a_client_may_ping_as_often_as_the_server_says_while_nothing_is_sent(
    bundle: Bundle, decoder: Decoder, sent: queue.Queue[Any], allowed: float, cut: bool
) -> None:
    pinging = [
        ("grpc.keepalive_time_ms", 300),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    settings = ServerSettings(grace_seconds=0, client_ping_seconds=allowed)
    with running_server([(bundle, decoder)], settings) as server:
        proxy = Proxy(server.address)
        try:
            with grpc.insecure_channel(proxy.target, options=pinging) as channel:
                sent.put(conversation_pb2.ConverseRequest(start=generation_pb2.GenerationOptions(prompt="a")))
                replies = conversation_pb2_grpc.ConversationServiceStub(channel).Converse(iter(sent.get, None))
                next(replies)
                if cut:
                    with pytest.raises(grpc.RpcError) as end:
                        list(replies)
                    assert end.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
                else:
                    eventually(lambda: proxy.pings >= 8)  # a client that pings too often is cut at its fifth
                    assert replies.is_active()
                    replies.cancel()
        finally:
            proxy.stop()
    assert proxy.connections == 1


def test_the_sdks_pings_are_within_what_the_server_allows(bundle: Bundle, decoder: Decoder) -> None:
    """Both with their defaults, a thirtieth of the times; gRPC sends no more than a ping a second."""
    defaults = ServerSettings()
    pings = {"keepalive_time_ms": 1000, "keepalive_timeout_ms": 20_000, "http2.ping_timeout_ms": 20_000}
    settings = ServerSettings(grace_seconds=0, client_ping_seconds=defaults.client_ping_seconds / 30)
    options = [(f"grpc.{name}", value) for name, value in pings.items()]
    with running_server([(bundle, decoder)], settings) as server:
        proxy = Proxy(server.address)
        try:
            with (
                Client(proxy.target, channel_options=options, timeout=60) as client,
                client.converse("a") as talk,
            ):
                assert isinstance(next(talk), Applied)
                eventually(lambda: proxy.pings >= 8)  # a client that pings too often is cut at its fifth
                talk.generate(max_tokens=3)
                while not isinstance(next(talk), Ended):
                    pass
        finally:
            proxy.stop()
    assert proxy.connections == 1, "the server ended the first"


async def until_idle(channel: grpc.aio.Channel) -> None:
    """Until the channel has no connection."""
    while (state := channel.get_state()) != grpc.ChannelConnectivity.IDLE:
        await channel.wait_for_state_change(state)


@pytest.mark.parametrize("limited", ["connection_idle_seconds", "connection_age_seconds"])
async def test_connections_without_calls_and_old_ones_are_ended_where_it_is_asked_for(
    bundle: Bundle, decoder: Decoder, limited: str
) -> None:
    settings = ServerSettings.model_validate({"grace_seconds": 0, limited: 0.3})
    with running_server([(bundle, decoder)], settings) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = models_pb2_grpc.ModelServiceStub(channel)
            for _ in range(2):
                await stub.ListModels(models_pb2.ListModelsRequest(), timeout=60)
                await asyncio.wait_for(until_idle(channel), 60)
