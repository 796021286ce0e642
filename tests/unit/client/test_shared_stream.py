"""What is particular to calls that share a stream. That each is as on a stream of its own is tested where that is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    RequestError,
    Unimplemented,
    _shared_stream,
    request_id,
)
from charloom.v1 import generation_pb2
from tests.unit.client.fake_answers import PIECES, TEXT, abort, draining, error_info, failing, in_turn, stream
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy
from tests.unit.client.shared_streams import Streams, always, holding, noted, present

shared_stream, streams = always, noted

CODE = grpc.StatusCode


class TestStreams:
    async def test_calls_one_after_the_other_use_one_stream(self, streams: Streams, either: AsyncClient) -> None:
        for _ in range(4):
            assert (await either.complete("Hi")).text == TEXT
        assert streams.begun == 1
        assert streams.runs(0)

    async def test_calls_of_a_burst_are_begun_in_few_messages(
        self, server: FakeServer, streams: Streams, async_client: AsyncClient
    ) -> None:
        many = 2 * _shared_stream.MOST_AT_ONCE + 5
        texts = [async_client.generate(str(number)) for number in range(many)]
        assert {(await text.result()).position for text in texts} == {19}
        first, *others = server.asked("GenerateMany")
        assert not first.calls
        assert [len(message.calls) for message in others] == [100, 100, 5]
        prompts = [call.request.options.prompt for message in others for call in message.calls]
        assert prompts == [str(number) for number in range(many)]

    async def test_an_old_one_is_replaced_and_closed_after_its_last_call(
        self, server: FakeServer, streams: Streams, either: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.answers["Generate"] = holding(server, "long")
        long = either.generate("long")
        assert await anext(long) == PIECES[0]
        present(either)._old_at = 0.0
        monkeypatch.setattr(_shared_stream, "AGE", 0.0)  # of later streams
        assert (await either.complete("Hi")).text == TEXT
        assert streams.begun == 2
        assert streams.runs(0)
        server.ended.set()
        await long.result()
        assert long.text == TEXT
        assert long.resumptions == 0
        assert await streams.is_over(0)
        assert (await either.complete("Hi")).text == TEXT
        assert streams.begun == 3
        assert await streams.is_over(1)  # without calls it is closed at once

    async def test_it_has_a_request_id_of_its_own(self, server: FakeServer, either: AsyncClient) -> None:
        for id in ("order-7", "order-8"):
            with request_id(id):
                await either.complete("Hi")
            assert server.headers["Generate"]["charloom-request-id"] == id
        assert len(server.headers["GenerateMany"]["charloom-request-id"]) == 32

    async def test_it_says_once_who_calls(self, server: FakeServer, make: Callable[..., Any]) -> None:
        async with make(server.target, tenant="shop") as client:
            await client.complete("Hi")
        assert server.headers["GenerateMany"]["charloom-tenant"] == "shop"

    async def test_a_large_request_has_a_stream_of_its_own(
        self, server: FakeServer, streams: Streams, either: AsyncClient
    ) -> None:
        assert (await either.complete("x" * (_shared_stream.LARGEST + 1))).text == TEXT
        assert streams.begun == 0
        assert (await either.complete("x" * (_shared_stream.LARGEST - 1000))).text == TEXT
        assert streams.begun == 1

    async def test_a_server_that_does_not_have_them_is_told_from_one_that_lacks_something_else(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["GenerateMany"] = failing(CODE.UNIMPLEMENTED, "Method not found!")
        with pytest.raises(Unimplemented, match="older than shared streams; leave shared_stream out"):
            await either.complete("Hi")
        server.answers["GetModel"] = failing(CODE.UNIMPLEMENTED, "Method not found!")
        with pytest.raises(Unimplemented) as other:
            await either.model("small")
        assert "shared" not in str(other.value)

    async def test_what_is_not_read_holds_up_nobody(self, server: FakeServer, either: AsyncClient) -> None:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            if request.options.prompt == "much":
                for position in range(64):  # far more than the windows of HTTP/2 let through
                    yield generation_pb2.GenerateResponse(text="x" * 2**17, position=position)
            yield from stream(request, context)

        server.answers["Generate"] = answer
        unread = either.generate("much")
        assert (await either.complete("Hi")).text == TEXT
        await unread.result()
        assert len(unread.text) == 64 * 2**17 + len(TEXT)

    def test_of_a_client_that_gets_no_thread_is_given_up(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        unread: list[Any] = []

        start = threading.Thread.start

        def refused(thread: Any) -> None:
            if thread.name != "charloom-shared-stream":
                return start(thread)
            unread.append(thread._target.__self__)
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refused)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                client.complete("Hi")
        assert [stream._duplex.cancelled for stream in unread] == [True]
        assert client.complete("Hi").text == TEXT

    def test_threads_of_one_client(self, streams: Streams, client: Client) -> None:
        def ask(number: int) -> list[str]:
            return [client.complete(f"{number}", seed=number).text for _ in range(10)]

        with ThreadPoolExecutor(32) as pool:
            assert [text for texts in pool.map(ask, range(32)) for text in texts] == [TEXT] * 320
        assert streams.begun == 1


class TestBreaks:
    async def test_each_call_is_resumed_where_it_was(
        self, server: FakeServer, streams: Streams, proxy: Proxy, make: Callable[..., Any]
    ) -> None:
        server.answers["Generate"] = holding(server)
        async with make(proxy.target, timeout=60) as client:
            texts = [client.generate(str(number)) for number in range(20)]
            for text in texts:
                assert await anext(text) == PIECES[0]
            proxy.cut()
            for text in texts:
                assert [piece async for piece in text] == list(PIECES[1:])
                assert text.resumptions == 1
        assert streams.begun == 2
        assert sorted(one.resume_position for one in server.asked("Generate")) == [0] * 20 + [8] * 20

    async def test_where_they_are_not_resumed_each_has_an_error_of_its_own(
        self, server: FakeServer, proxy: Proxy, make: Callable[..., Any]
    ) -> None:
        server.answers["Generate"] = holding(server)
        async with make(proxy.target, timeout=60) as client:
            texts = [client.generate(str(number), resume=False) for number in range(3)]
            for text in texts:
                await anext(text)
            proxy.cut()
            causes = []
            for text in texts:
                with pytest.raises(ConnectionFailed, match=proxy.target) as caught:
                    await text.result()
                causes.append(caught.value.__cause__)
        # One for all would gather the tracebacks of all, and whatever they hold.
        assert len(set(map(id, causes))) == 3

    @pytest.mark.parametrize(
        "over",
        [
            lambda requests, context: iter(()),
            failing(CODE.DEADLINE_EXCEEDED, "there was no call", error_info("CLIENT_IDLE")),
            failing(CODE.UNAVAILABLE, "the server is stopping", error_info("DRAINING")),
        ],
    )
    async def test_a_call_that_meets_the_end_of_the_stream_is_made_again(
        self, server: FakeServer, streams: Streams, either: AsyncClient, over: Any
    ) -> None:
        streams._answer = in_turn(over, streams._answer)
        assert (await either.complete("Hi")).text == TEXT
        assert streams.begun == 2

    @pytest.mark.parametrize(
        "leaving",
        [draining(1), failing(CODE.UNAVAILABLE, "the server is stopping", error_info("DRAINING"))],
        ids=["after a piece", "at once"],
    )
    async def test_a_stream_to_a_server_that_stops_gets_no_more_calls(
        self, server: FakeServer, streams: Streams, either: AsyncClient, leaving: Any
    ) -> None:
        server.answers["Generate"] = in_turn(holding(server, "long"), leaving, stream)
        long = either.generate("long")
        assert await anext(long) == PIECES[0]
        session = await either.open_session("s1")
        text = session.generate("Hi")
        await text.result()
        assert (text.text, text.resumptions) == (TEXT, 1)
        assert streams.begun == 2
        assert streams.runs(0)
        server.ended.set()
        await long.result()
        assert long.text == TEXT
        assert await streams.is_over(0)


class TestErrors:
    async def test_that_of_one_call_leaves_the_others(
        self, server: FakeServer, streams: Streams, either: AsyncClient
    ) -> None:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            pieces = holding(server)(request, context)
            yield next(pieces)
            if request.options.prompt == "bad":
                abort(context, CODE.INVALID_ARGUMENT, "not this one", error_info("INVALID_REQUEST"))
            yield from pieces

        server.answers["Generate"] = answer
        good, bad = either.generate("good"), either.generate("bad")
        assert await anext(good) == PIECES[0]
        with pytest.raises(InvalidArgument, match="not this one"):
            await bad.result()
        assert bad.text == PIECES[0]
        server.ended.set()
        await good.result()
        assert good.text == TEXT
        assert streams.begun == 1

    async def test_a_code_that_grpc_does_not_know_is_that_of_one_call_too(
        self, streams: Streams, either: AsyncClient
    ) -> None:
        def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            numbers = (call.number for request in requests for call in request.calls)
            end = generation_pb2.GenerateEnd(number=next(numbers), code=99, message="of another world")
            yield generation_pb2.GenerateManyResponse(ends=[end])
            end.CopyFrom(generation_pb2.GenerateEnd(number=next(numbers), code=CODE.NOT_FOUND.value[0], message="none"))
            yield generation_pb2.GenerateManyResponse(ends=[end])

        streams._answer = answer
        for code, words in ((CODE.UNKNOWN, "of another world"), (CODE.NOT_FOUND, "none")):
            with pytest.raises((RequestError, ConnectionFailed), match=words) as caught:
                await either.generate("Hi", resume=False).result()
            assert caught.value.__cause__.code() is code  # type: ignore[union-attr]
        assert streams.begun == 1

    @pytest.mark.parametrize("silent", [True, False])
    async def test_a_deadline_is_told_alike_by_client_and_server(
        self, streams: Streams, either: AsyncClient, silent: bool
    ) -> None:
        def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            for request in requests:
                for call in request.calls:
                    assert 0 < call.timeout.ToSeconds() <= 60 or silent
                    if not silent:
                        end = generation_pb2.GenerateEnd(number=call.number, code=CODE.DEADLINE_EXCEEDED.value[0])
                        yield generation_pb2.GenerateManyResponse(ends=[end])

        streams._answer = answer
        with pytest.raises(DeadlineExceeded, match="did not finish before its deadline; allow it a longer timeout"):
            await either.complete("Hi", timeout=0.2 if silent else 60)
