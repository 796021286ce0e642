"""What the SDK's channels are told: how large a message may be, and how a silent connection is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from charloom.client import AsyncClient, Client, ConnectionFailed, DeadlineExceeded
from charloom.v1 import generation_pb2, reading_pb2
from tests.unit.client.fake_answers import PIECES, logprobs, result
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy

LIMITS = [("grpc.max_receive_message_length", 1000)]
LENGTH = 200
PINGS_ALLOWED = [("grpc.http2.min_ping_interval_without_data_ms", 500), ("grpc.keepalive_permit_without_calls", 1)]


def long(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """An answer of Generate whose text, as a whole, is larger than one message may be here."""
    for position in range(1, LENGTH + 1):
        yield generation_pb2.GenerateResponse(text="x", position=position, logprobs=logprobs("x", request.options))
    yield generation_pb2.GenerateResponse(position=LENGTH, result=result())


async def test_a_whole_text_may_be_larger_than_a_message(server: FakeServer, make: Callable[..., Any]) -> None:
    server.answers["Generate"] = long
    async with make(server.target, channel_options=LIMITS) as client:
        completion = await client.complete("Hi", logprobs=True, top_logprobs=5)
    assert completion.text == "x" * LENGTH
    assert [len(token.top) for token in completion.logprobs] == [5] * LENGTH
    assert completion.result.seed == 42


async def test_a_message_may_be_larger_than_grpcs_default(server: FakeServer, either: AsyncClient) -> None:
    size = 5_000_000
    server.answers["Peek"] = lambda _, __: reading_pb2.PeekResponse(text="x" * size)
    assert len((await either.peek("Hi")).text) == size


class TestKeepalive:
    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_connection_is_never_silent_for_a_minute(self, kind: Any) -> None:
        options = dict(kind("127.0.0.1:1")._connection._options)
        assert options["grpc.keepalive_time_ms"] == 30_000
        assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 20_000
        assert options["grpc.http2.max_pings_without_data"] == 0, "gRPC's default is to stop after two"

    @pytest.fixture
    def between(self) -> Iterator[Proxy]:
        """A proxy that drops what is silent for 2 s, before a server that takes as many pings as that needs."""
        fake = FakeServer(options=PINGS_ALLOWED)
        fake.answers["Generate"] = fake.answer_and_wait
        proxy = Proxy(fake.target, idle=2.0)
        yield proxy
        proxy.stop()
        fake.stop()

    async def test_a_silent_stream_outlives_a_proxys_patience(self, between: Proxy, make: Callable[..., Any]) -> None:
        async with make(between.target, channel_options=[("grpc.keepalive_time_ms", 1000)]) as client:
            text = client.generate("Hi", resume=False, timeout=6)
            assert await anext(text) == PIECES[0]
            # Five pings. gRPC's own client would stop after two of them.
            with pytest.raises(DeadlineExceeded):
                await anext(text)

    @pytest.mark.parametrize("waiting", ["a stream", "a call"])
    async def test_a_server_that_vanished_without_a_word_is_noticed(
        self, between: Proxy, make: Callable[..., Any], waiting: str
    ) -> None:
        fast = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
        async with make(between.target, channel_options=[(name, 1000) for name in fast], timeout=60) as client:
            text = client.generate("Hi", resume=False)
            assert await anext(text) == PIECES[0]
            between.mute = True
            # Not at the deadline: the next sign of life does not come.
            with pytest.raises(ConnectionFailed):
                await (anext(text) if waiting == "a stream" else client.session())

    async def test_without_pings_it_is_dropped(self, between: Proxy, make: Callable[..., Any]) -> None:
        async with make(between.target, channel_options=[("grpc.keepalive_time_ms", 100_000)]) as client:
            text = client.generate("Hi", resume=False, timeout=10)
            assert await anext(text) == PIECES[0]
            with pytest.raises(ConnectionFailed):
                await anext(text)

    async def test_a_connection_without_calls_is_kept(self, between: Proxy, make: Callable[..., Any]) -> None:
        async with make(between.target, channel_options=[("grpc.keepalive_time_ms", 1000)]) as client:
            assert await client.models()
            await asyncio.sleep(4)
            assert await client.models()
        assert between.connections == 1
