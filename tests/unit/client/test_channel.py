"""What the SDK's channels are told: how large a message may be, and how a silent connection is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from charloom.client import AsyncClient, Client, ConnectionFailed
from charloom.v1 import generation_pb2, reading_pb2
from tests.unit.client.fake_answers import PIECES, logprobs, result
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy
from tests.unit.client.shared_streams import holding
from tests.waiting import eventually

LIMITS = [("grpc.max_receive_message_length", 1000)]
LENGTH = 200
PINGS_ALLOWED = [("grpc.http2.min_ping_interval_without_data_ms", 1), ("grpc.keepalive_permit_without_calls", 1)]
OFTEN = [("grpc.keepalive_time_ms", 1000)]  # gRPC takes no less


def long(request: generation_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Any]:
    """An answer of Generate whose text, as a whole, is larger than one message may be here."""
    for position in range(1, LENGTH + 1):
        yield generation_pb2.GenerateResponse(text="x", position=position, logprobs=logprobs("x", request.options))
    yield generation_pb2.GenerateResponse(position=LENGTH, result=result())


async def three_pings(proxy: Proxy) -> None:
    """Wait until so many more were sent; more than two, gRPC's own client sends but one a minute."""
    before = proxy.pings
    await asyncio.to_thread(eventually, lambda: proxy.pings >= before + 3, 40)


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
    def fake(self) -> Iterator[FakeServer]:
        """A server that waits after its first piece, and takes as many pings as there are."""
        fake = FakeServer(options=PINGS_ALLOWED)
        fake.answers["Generate"] = holding(fake)
        yield fake
        fake.stop()

    @pytest.fixture
    def between(self, fake: FakeServer) -> Iterator[Proxy]:
        proxy = Proxy(fake.target)
        yield proxy
        proxy.stop()

    async def test_a_silent_stream_sends_pings_without_end(
        self, fake: FakeServer, between: Proxy, make: Callable[..., Any]
    ) -> None:
        async with make(between.target, channel_options=OFTEN, timeout=120) as client:
            text = client.generate("Hi", resume=False)
            assert await anext(text) == PIECES[0]
            await three_pings(between)
            fake.ended.set()
            assert (await text.result()).seed == 42
        assert between.connections == 1

    @pytest.mark.parametrize("waiting", ["a stream", "a call"])
    async def test_a_server_that_vanished_without_a_word_is_noticed(
        self, between: Proxy, make: Callable[..., Any], waiting: str
    ) -> None:
        fast = [*OFTEN, ("grpc.keepalive_timeout_ms", 1000), ("grpc.http2.ping_timeout_ms", 1000)]
        async with make(between.target, channel_options=fast, timeout=120) as client:
            text = client.generate("Hi", resume=False)
            assert await anext(text) == PIECES[0]
            between.mute = True
            # Not at the deadline: the next sign of life does not come.
            with pytest.raises(ConnectionFailed):
                await (anext(text) if waiting == "a stream" else client.session())

    async def test_so_does_a_connection_without_calls(self, between: Proxy, make: Callable[..., Any]) -> None:
        async with make(between.target, channel_options=OFTEN) as client:
            assert await client.models()
            await three_pings(between)
            assert await client.models()
        assert between.connections == 1
