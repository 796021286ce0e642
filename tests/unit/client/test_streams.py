from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    Cancelled,
    Client,
    FinishReason,
    InternalError,
    InvalidArgument,
    TextStream,
)
from charloom.v1 import generation_pb2, text_pb2
from tests.unit.client.fake_answers import PIECES, TEXT, abort, draining, error_info, result, stream
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import interrupt_soon, somewhere, with_and_without

shared_stream = with_and_without


def with_empty_messages(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    for message in stream(request, context):
        yield generation_pb2.GenerateResponse(position=message.position)
        yield message


def broken_after_a_piece(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    yield generation_pb2.GenerateResponse(text=PIECES[0], position=8)
    abort(context, grpc.StatusCode.INVALID_ARGUMENT, "no more", error_info("INVALID_REQUEST"))


def without_result(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    yield generation_pb2.GenerateResponse(text=PIECES[0], position=8)


def bytes_before_text(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    """The two bytes of an é in messages of their own, the text with the second, and the last token with the result."""
    for symbol, text in ((b"\xc3", ""), (b"\xa9", "é")):
        token = text_pb2.TokenLogprob(chosen=text_pb2.Alternative(symbol=symbol, logprob=-1))
        yield generation_pb2.GenerateResponse(text=text, position=1, logprobs=[token])
    last = text_pb2.TokenLogprob(chosen=text_pb2.Alternative(symbol=b"\xf0", logprob=-2))
    yield generation_pb2.GenerateResponse(position=3, logprobs=[last], result=result())


def with_an_index(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    for message in stream(request, context):
        message.index = 7
        yield message


class TestEither:
    async def test_the_pieces_arrive_as_they_were_sent(self, either: AsyncClient) -> None:
        assert [piece async for piece in either.generate("Hi")] == list(PIECES)

    async def test_text_and_position_grow_with_the_pieces(self, either: AsyncClient) -> None:
        async with either.generate("Hi") as text:
            assert (text.text, text.position) == ("", 0)
            assert await anext(text) == PIECES[0]
            assert (text.text, text.position) == (PIECES[0], 8)
            assert await anext(text) == PIECES[1]
            assert (text.text, text.position) == (PIECES[0] + PIECES[1], 12)

    async def test_result_reads_what_is_left(self, either: AsyncClient) -> None:
        text = either.generate("Hi")
        assert await anext(text) == PIECES[0]
        assert (text.text, text.position) == (PIECES[0], 8)
        result = await text.result()
        assert text.text == TEXT
        assert (result.finish_reason, result.seed, result.position) == (FinishReason.LENGTH, 42, 19)
        assert await text.result() is result
        assert [piece async for piece in text] == []

    async def test_log_probabilities_grow_with_the_pieces(self, either: AsyncClient) -> None:
        text = either.generate("Hi", logprobs=True, top_logprobs=2)
        assert text.logprobs == ()
        for _ in PIECES:
            await anext(text)
            assert "".join(token.text for token in text.logprobs) == text.text
        await text.result()
        assert len(text.logprobs) == len(TEXT)
        assert text.logprobs[0].logprob == pytest.approx(-0.6931472)
        assert [other.text for other in text.logprobs[0].top] == ["O", "P"]

    async def test_without_being_asked_for_there_are_no_log_probabilities(self, either: AsyncClient) -> None:
        text = either.generate("Hi")
        await text.result()
        assert text.logprobs == ()

    async def test_log_probabilities_of_bytes_may_come_before_their_text(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = bytes_before_text
        text = either.generate("Hi", logprobs=True)
        assert [piece async for piece in text] == ["é"]
        assert [token.symbol for token in text.logprobs] == [b"\xc3", b"\xa9", b"\xf0"]

    async def test_an_index_means_nothing_where_one_text_was_asked_for(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = with_an_index
        text = either.generate("Hi")
        assert [piece async for piece in text] == list(PIECES)
        assert (await text.result()).seed == 42

    async def test_empty_messages_are_not_pieces(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = with_empty_messages
        assert [piece async for piece in either.generate("Hi")] == list(PIECES)

    async def test_a_stopping_server_is_told_by_the_result(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = draining(2)
        stream = either.generate("Hi")
        assert (await stream.result()).finish_reason is FinishReason.DRAINING
        assert (stream.text, stream.position) == (PIECES[0] + PIECES[1], 12)

    async def test_leaving_early_cancels_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        async with either.generate("Hi") as text:
            assert await anext(text) == PIECES[0]
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await text.result()
        assert text.text == PIECES[0]

    async def test_an_exception_in_the_block_cancels_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        with pytest.raises(ZeroDivisionError):
            async with either.generate("Hi") as text:
                print(len(await anext(text)) / 0)
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_a_forgotten_stream_does_not_keep_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = either.generate("Hi")
        await anext(text)
        del text
        gc.collect()
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_cancel_twice_is_as_good_as_once(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = either.generate("Hi")
        await anext(text)
        text.cancel()
        text.cancel()
        with pytest.raises(Cancelled, match="was cancelled"):
            await anext(text)

    async def test_cancel_after_the_end_takes_nothing_back(self, either: AsyncClient) -> None:
        text = either.generate("Hi")
        result = await text.result()
        text.cancel()
        assert await text.result() is result

    async def test_text_before_an_error_is_kept(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = broken_after_a_piece
        text = either.generate("Hi")
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="no more"):
                await text.result()
        assert text.text == PIECES[0]

    async def test_a_stream_that_ends_without_a_result_is_an_error(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = without_result
        with pytest.raises(InternalError, match="without a result"):
            await either.generate("Hi").result()
        with pytest.raises(InternalError, match="without a result"):
            [piece async for piece in either.generate("Hi")]


class TestBlocking:
    def test_closing_the_client_ends_its_streams(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = client.generate("Hi")
        next(text)
        client.close()
        with pytest.raises(Cancelled):
            next(text)

    def test_ctrl_c_while_waiting_leaves_no_call_running(self, server: FakeServer, client: Client) -> None:
        def interrupt(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            for message in server.answer_and_wait(request, context):
                yield message
                waiting.wait(30)
                interrupt_soon()

        waiting = threading.Event()
        server.answers["Generate"] = interrupt
        text = client.generate("Hi")
        next(text)
        waiting.set()
        with pytest.raises(KeyboardInterrupt):
            next(text)
        assert server.ended.wait(30)

    def test_ctrl_c_while_waiting_for_a_whole_answer_cancels_it(self, server: FakeServer, client: Client) -> None:
        def interrupt(request: Any, context: grpc.ServicerContext) -> Any:
            server.note_end(context)
            interrupt_soon()
            server.ended.wait(120)
            yield from ()

        server.answers["Generate"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            client.complete("Hi")
        assert server.ended.wait(30)

    def test_a_second_thread_is_refused_and_the_first_one_reads_on(self, server: FakeServer, client: Client) -> None:
        def slowly(request: Any, context: grpc.ServicerContext) -> Any:
            first, *others = stream(request, context)
            yield first
            waiting.wait(30)
            yield from others

        waiting = threading.Event()
        server.answers["Generate"] = slowly
        text = client.generate("Hi")
        begun, found = threading.Event(), list[str]()

        def read() -> None:
            for piece in text:
                found.append(piece)
                begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(30)
        while reader.is_alive() and text._reader.acquire(
            blocking=False
        ):  # it waits for the second piece once it holds this
            text._reader.release()
        with pytest.raises(RuntimeError, match="another thread is reading this stream"):
            next(text)
        waiting.set()
        reader.join(30)
        assert found == list(PIECES)

    def test_any_exception_out_of_a_read_cancels_the_call(self) -> None:
        class Call:
            cancelled = False

            def __next__(self) -> generation_pb2.GenerateResponse:
                raise SystemExit

            def cancel(self) -> None:
                self.cancelled = True

        call = Call()
        with pytest.raises(SystemExit):
            next(TextStream(call, somewhere(), lambda result: None))
        assert call.cancelled


class TestAsyncio:
    async def test_cancel_before_the_first_read_is_an_error_and_no_task_cancellation(
        self, async_client: AsyncClient
    ) -> None:
        text = async_client.generate("Hi")
        text.cancel()
        with pytest.raises(Cancelled):
            await anext(text)

    async def test_cancel_by_another_task_does_not_cancel_the_reader(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = async_client.generate("Hi")
        await anext(text)
        reader = asyncio.create_task(text.result())
        await asyncio.sleep(0.05)
        text.cancel()
        with pytest.raises(Cancelled):
            await reader

    async def test_cancelling_the_task_cancels_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = async_client.generate("Hi")
        await anext(text)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(text.result(), 0.1)
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_cancelling_a_whole_answer_cancels_the_call(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        def wait(request: Any, context: grpc.ServicerContext) -> Any:
            server.note_end(context)
            server.ended.wait(120)
            yield from ()

        server.answers["Generate"] = wait
        waiting = asyncio.ensure_future(async_client.complete("Hi"))
        await server.reached("Generate")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_closing_the_client_ends_its_streams_without_cancelling_their_tasks(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Generate"] = server.answer_and_wait
        text = async_client.generate("Hi")
        await anext(text)
        reader = asyncio.create_task(text.result())
        await asyncio.sleep(0.05)
        await async_client.close()
        with pytest.raises(Cancelled):
            await reader

    async def test_many_streams_share_one_client(self, async_client: AsyncClient) -> None:
        async def read(stream: AsyncIterator[str]) -> str:
            return "".join([piece async for piece in stream])

        streams = [async_client.generate(str(number)) for number in range(6)]
        assert await asyncio.gather(*map(read, streams)) == [TEXT] * 6
