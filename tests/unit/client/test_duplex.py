"""Why the asyncio SDK sends past `write` of grpc.aio, through an attribute that is not public."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from charloom.client import AsyncClient, ConversationText, InvalidArgument
from charloom.client._async.duplex import AsyncDuplex
from charloom.v1 import conversation_pb2, conversation_pb2_grpc, reading_pb2
from tests.unit.client.fake_answers import abort, error_info
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import somewhere


@pytest.fixture
def refused(server: FakeServer) -> FakeServer:
    """A server that says something and then refuses the call, whatever else is sent."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        server.note_end(context)
        yield conversation_pb2.ConverseResponse(position=1, text="said")
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "refused", error_info("INVALID_REQUEST"))

    server.answers["Converse"] = answer
    return server


async def test_sending_to_a_call_that_was_refused_loses_neither_what_was_said_nor_why(
    refused: FakeServer, async_client: AsyncClient
) -> None:
    async with async_client.converse("Hi") as talk:
        await talk.pause()
        assert await asyncio.to_thread(refused.ended.wait, 30)
        for _ in range(30):  # the client's side of the connection hears of it somewhere here
            await talk.pause()
            await asyncio.sleep(0.01)
        assert await anext(talk) == ConversationText(text="said", position=1)
        with pytest.raises(InvalidArgument, match="refused"):
            await anext(talk)


async def write_without_end(call: Any) -> None:
    while True:
        await call.write(conversation_pb2.ConverseRequest())
        await asyncio.sleep(0.01)


async def test_write_of_grpc_loses_both(refused: FakeServer) -> None:
    """As of grpcio 1.85. When this fails, gRPC has mended it, and `AsyncDuplex` may use `write` alone."""
    async with grpc.aio.insecure_channel(refused.target) as channel:
        call = conversation_pb2_grpc.ConversationServiceStub(channel).Converse()
        with pytest.raises(grpc.RpcError, match="Internal error from Core"):
            await write_without_end(call)
        with pytest.raises(grpc.RpcError, match="Internal error from Core"):
            await call.read()
        assert await call.code() is grpc.StatusCode.INTERNAL


async def test_where_there_is_no_such_attribute_write_it_is() -> None:
    class Call:
        def done(self) -> bool:
            return False

        def add_done_callback(self, callback: Callable[[Any], None]) -> None:
            pass

        async def wait_for_connection(self) -> None:
            pass

        async def write(self, request: reading_pb2.ObserveRequest) -> None:
            written.append(request.text)

        def cancel(self) -> None:
            pass

    written: list[str] = []
    first, second = (reading_pb2.ObserveRequest(text=text) for text in ("one", "two"))
    duplex: AsyncDuplex[Any, Any] = AsyncDuplex(Call(), first, somewhere())  # type: ignore[arg-type]
    assert await duplex.send(second) == 1
    assert written == ["one", "two"]
