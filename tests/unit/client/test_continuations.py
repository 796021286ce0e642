from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    Cancelled,
    Client,
    Completion,
    Continuations,
    InternalError,
    InvalidArgument,
    InvalidValue,
)
from charloom.v1 import generation_pb2
from tests.unit.client.fake_answers import abort, continuation, error_info, failing, result, several, stream
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import somewhere, with_and_without

shared_stream = with_and_without

TEXTS = ["".join(continuation(index)) for index in range(3)]
PAIRS = [
    *[(2, "2: "), (1, "1: "), (0, "0: ")],
    *[(2, " a time"), (1, "upon"), (0, "Once ")],
    *[(1, " a time"), (0, "upon")],
    (0, " a time"),
]
"""What the server sends when three are asked for."""


def broken_after_a_result(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    yield generation_pb2.GenerateResponse(text="begun", index=2)
    yield generation_pb2.GenerateResponse(text="whole", index=1)
    yield generation_pb2.GenerateResponse(index=1, result=result())
    abort(context, grpc.StatusCode.INVALID_ARGUMENT, "no more", error_info("INVALID_REQUEST"))


def with_a_result_too_few(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
    return (message for message in several(request, context) if not (message.index == 1 and message.HasField("result")))


def with_one_too_many(server: FakeServer) -> Any:
    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
        server.note_end(context)
        yield generation_pb2.GenerateResponse(text="mine", index=0)
        yield generation_pb2.GenerateResponse(text="whose?", index=request.options.n)
        server.ended.wait(120)

    return answer


def check(completions: list[Completion]) -> None:
    """Check what came of three continuations."""
    assert [completion.text for completion in completions] == TEXTS
    assert [completion.result.seed for completion in completions] == [42, 43, 44]


class TestEither:
    async def test_pieces_arrive_in_the_servers_order_with_their_indices(self, either: AsyncClient) -> None:
        continuations = either.continuations("Hi", n=3)
        assert continuations.texts == ["", "", ""]
        assert [await anext(continuations) for _ in range(4)] == PAIRS[:4]
        assert continuations.texts == ["0: ", "1: ", "2:  a time"]
        assert [pair async for pair in continuations] == PAIRS[4:]
        assert continuations.texts == TEXTS
        assert [pair async for pair in continuations] == []

    async def test_completions_reads_what_is_left_and_sorts_it(self, either: AsyncClient) -> None:
        async with either.continuations("Hi", n=3) as continuations:
            assert await anext(continuations) == (2, "2: ")
            check(await continuations.completions())
            assert await continuations.completions() == await continuations.completions()

    async def test_the_request_is_that_of_generate_with_a_number(self, server: FakeServer, either: AsyncClient) -> None:
        completions = await either.continuations("Hi", n=3, seed=7, stop="END").completions()
        assert [completion.result.seed for completion in completions] == [7, 8, 9]
        await either.generate("Hi", seed=7, stop="END").result()
        several, one = (request.options for request in server.asked("Generate"))
        assert several.n == 3
        assert not one.HasField("n")
        several.ClearField("n")
        assert several == one

    async def test_each_has_its_own_log_probabilities(self, either: AsyncClient) -> None:
        completions = await either.continuations("Hi", n=3, logprobs=True).completions()
        assert ["".join(token.text for token in one.logprobs) for one in completions] == TEXTS
        assert (await either.continuations("Hi", n=1).completions())[0].logprobs == ()

    async def test_one_continuation_is_a_list_of_one(self, either: AsyncClient) -> None:
        (completion,) = await either.continuations("Hi", n=1).completions()
        assert completion.text == TEXTS[0]

    async def test_a_number_that_the_server_refuses_costs_nothing(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = failing(grpc.StatusCode.INVALID_ARGUMENT, "n: up to 64", error_info("INVALID"))
        continuations = either.continuations("Hi", n=2**32 - 1)
        with pytest.raises(InvalidArgument, match="up to 64"):
            await continuations.completions()

    async def test_leaving_midway_cancels_the_call_and_keeps_the_texts(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = server.answer_and_wait
        async with either.continuations("Hi", n=2) as continuations:
            assert await anext(continuations) == (0, "Once ")
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await continuations.completions()
        assert continuations.texts == ["Once ", ""]

    async def test_one_result_is_not_the_end_of_all(self, server: FakeServer, either: AsyncClient) -> None:
        def one_ends(request: Any, context: grpc.ServicerContext) -> Iterator[generation_pb2.GenerateResponse]:
            yield generation_pb2.GenerateResponse(index=1, result=result())
            yield from server.answer_and_wait(request, context)

        server.answers["Generate"] = one_ends
        async with either.continuations("Hi", n=2) as continuations:
            assert await anext(continuations) == (0, "Once ")
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_cancel_twice_is_as_good_as_once(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        continuations = either.continuations("Hi", n=2)
        await anext(continuations)
        continuations.cancel()
        continuations.cancel()
        for _ in range(2):
            with pytest.raises(Cancelled, match="was cancelled"):
                await anext(continuations)

    async def test_cancel_after_the_end_takes_nothing_back(self, either: AsyncClient) -> None:
        continuations = either.continuations("Hi", n=3)
        await continuations.completions()
        continuations.cancel()
        check(await continuations.completions())

    async def test_forgotten_continuations_do_not_keep_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        continuations = either.continuations("Hi", n=2)
        await anext(continuations)
        del continuations
        gc.collect()
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_an_error_midway_takes_no_text_back_and_stays(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = broken_after_a_result
        continuations = either.continuations("Hi", n=3)
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="no more"):
                await continuations.completions()
        assert continuations.texts == ["", "whole", "begun"]

    async def test_a_missing_result_is_an_error(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = with_a_result_too_few
        continuations = either.continuations("Hi", n=3)
        for _ in range(2):
            with pytest.raises(InternalError, match="closed the stream after 2 of 3 results"):
                await continuations.completions()
        assert continuations.texts == TEXTS

    async def test_a_server_that_knows_of_no_number_is_told_as_such(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = stream
        with pytest.raises(InternalError, match="after 1 of 2 results; it may be older than this client"):
            await either.continuations("Hi", n=2).completions()

    async def test_an_index_that_was_not_asked_for_ends_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = with_one_too_many(server)
        continuations = either.continuations("Hi", n=2)
        assert await anext(continuations) == (0, "mine")
        with pytest.raises(InternalError, match="a continuation of index 2 where 2 were asked for"):
            await anext(continuations)
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_several_leave_the_session_as_it_was(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(id="mine") as opened:
            before = opened.info
            check(await opened.continuations("Hi", n=3, temperature=0.5).completions())
            assert opened.info is before
        (request,) = server.asked("Generate")
        assert (request.options.session_id, request.options.n) == ("mine", 3)

    async def test_one_takes_the_session_along(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.session(id="mine") as opened:
            await opened.continuations("Hi", n=1).completions()
            assert (opened.info.position, opened.info.version) == (19, 1)
        assert [request.options.session_id for request in server.asked("Generate")] == ["mine"]

    async def test_leaving_the_session_ends_what_is_still_running(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = server.answer_and_wait
        async with either.session() as opened:
            continuations = opened.continuations("Hi", n=2)
            assert await anext(continuations) == (0, "Once ")
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await continuations.completions()


class TestBlocking:
    def test_a_number_is_needed_and_checked_before_anything_is_sent(self, server: FakeServer, client: Client) -> None:
        with pytest.raises(TypeError, match="required keyword-only argument: 'n'"):
            client.continuations("Hi")  # type: ignore[call-arg]
        with pytest.raises(InvalidValue, match=r"n: 2\.5 is not a whole number"):
            client.continuations("Hi", n=2.5)  # type: ignore[arg-type]
        assert server.calls == []

    def test_any_exception_out_of_a_read_cancels_the_call(self) -> None:
        class Call:
            cancelled = False

            def __next__(self) -> generation_pb2.GenerateResponse:
                raise KeyboardInterrupt

            def cancel(self) -> None:
                self.cancelled = True

        call = Call()
        with pytest.raises(KeyboardInterrupt):
            Continuations(call, somewhere(), 2, lambda result: None).completions()
        assert call.cancelled


class TestAsyncio:
    async def test_cancel_by_another_task_does_not_cancel_the_reader(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Generate"] = server.answer_and_wait
        continuations = async_client.continuations("Hi", n=2)
        await anext(continuations)
        reader = asyncio.create_task(continuations.completions())
        await asyncio.sleep(0.05)
        continuations.cancel()
        with pytest.raises(Cancelled):
            await reader

    async def test_cancelling_the_task_cancels_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        continuations = async_client.continuations("Hi", n=2)
        await anext(continuations)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(continuations.completions(), 0.1)
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_closing_the_client_ends_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Generate"] = server.answer_and_wait
        continuations = async_client.continuations("Hi", n=2)
        await anext(continuations)
        await async_client.close()
        with pytest.raises(Cancelled):
            await continuations.completions()
