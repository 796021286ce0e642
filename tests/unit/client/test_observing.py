"""A text that is observed as it comes."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    InvalidValue,
    NotFound,
)
from charloom.client._sync.duplex import Duplex
from charloom.v1 import reading_pb2, text_pb2
from tests.unit.client.fake_answers import abort, error_info, failing, observe
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import interrupt_soon, somewhere
from tests.waiting import eventually

GONE = failing(grpc.StatusCode.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND"))


SKIP = text_pb2.UNKNOWN_CHARACTERS_SKIP


def refusing_the_second(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    for number, answer in enumerate(observe(requests, context)):
        if number == 1:
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "text: unknown", error_info("INVALID_REQUEST"))
        yield answer


def silent(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    """Ends the stream where an answer is due."""
    next(requests)
    next(requests)
    yield from ()


def waiting(server: FakeServer) -> Callable[..., Iterator[Any]]:
    """Answers nothing until the call ends; sets `ended` then."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        server.note_end(context)
        next(requests)
        server.ended.wait(120)
        yield from ()

    return answer


def watched(server: FakeServer) -> Callable[..., Iterator[Any]]:
    """The usual answer; sets `ended` when the call ends."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        server.note_end(context)
        return observe(requests, context)

    return answer


def threads() -> set[threading.Thread]:
    """Threads of gRPC's clients: one for each channel in use, and one for each call that may send more messages."""
    return {thread for thread in threading.enumerate() if "_run" in thread.name}


class TestEitherObserves:
    async def test_each_text_has_one_answer(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.observe(model="small", unknown_characters="skip", top_logprobs=2) as observer:
            first = await observer.read("Hi")
            assert [token.text for token in first.logprobs] == ["H", "i"]
            assert first.surprisals == pytest.approx((0.6931472, 0.6931472))
            assert [other.text for other in first.logprobs[0].top] == ["H", "I"]
            assert first.position == 5
            assert (await observer.read("")).logprobs == ()
            assert (await observer.read("!")).position == 6
        start = reading_pb2.ObserveStart(model="small", unknown_characters=SKIP, top_logprobs=2)
        assert server.asked("Observe") == [
            reading_pb2.ObserveRequest(start=start),
            *[reading_pb2.ObserveRequest(text=text) for text in ("Hi", "", "!")],
        ]

    async def test_closing_half_closes_and_waits_for_the_end(self, server: FakeServer, either: AsyncClient) -> None:
        def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            yield from observe(requests, context)
            time.sleep(0.2)
            ended.append(True)

        ended: list[bool] = []
        server.answers["Observe"] = answer
        observer = either.observe()
        await observer.read("Hi")
        assert ended == []
        await observer.close()
        assert ended == [True]
        await observer.close()
        with pytest.raises(RuntimeError, match="this stream is closed"):
            await observer.read("more")

    async def test_an_observation_of_nothing_still_says_where_it_began(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.session(id="s1") as session, session.observe(top_logprobs=1):
            pass
        start = reading_pb2.ObserveStart(session_id="s1", top_logprobs=1)
        assert server.asked("Observe") == [reading_pb2.ObserveRequest(start=start)]

    async def test_leaving_the_session_cancels_it(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Observe"] = watched(server)
        async with either.session(id="s1") as session:
            observer = session.observe()
            await observer.read("Hi")
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await observer.read("Ho")

    async def test_an_error_comes_with_the_text_that_caused_it_and_stays(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Observe"] = refusing_the_second
        async with either.observe() as observer:
            await observer.read("Hi")
            for _ in range(2):
                with pytest.raises(InvalidArgument, match="text: unknown"):
                    await observer.read("é")

    async def test_a_start_that_is_refused_is_told_with_the_first_text_or_at_the_end(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        """However the server's answer and what is sent meanwhile meet."""
        server.answers["Observe"] = GONE
        for _ in range(50):
            with pytest.raises(NotFound, match="no session"):
                async with either.observe() as observer:
                    await observer.read("Hi")
            with pytest.raises(NotFound, match="no session"):
                async with either.observe():
                    pass

    async def test_an_error_that_a_block_has_dealt_with_is_not_raised_again_at_its_end(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        """Whether reading told of it, or sending to a call that was over by then."""
        server.answers["Observe"] = GONE
        for number in range(50):
            async with either.observe() as observer:
                await asyncio.sleep(0.001 * (number % 5))
                with pytest.raises(NotFound, match="no session"):
                    await observer.read("Hi")

    async def test_an_answer_that_is_missing_is_a_fault_of_the_server(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Observe"] = silent
        with pytest.raises(InternalError, match="without an answer"):
            async with either.observe() as observer:
                await observer.read("Hi")

    async def test_an_exception_in_the_block_cancels_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Observe"] = watched(server)
        observer = either.observe()
        await observer.read("Hi")
        with pytest.raises(ZeroDivisionError):
            async with observer:
                raise ZeroDivisionError
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await observer.read("Ho")

    async def test_who_cancels_is_not_told_so_at_the_end_of_the_block(self, either: AsyncClient) -> None:
        async with either.observe() as observer:
            await observer.read("Hi")
            observer.cancel()
        async with either.observe() as observer:
            observer.cancel()
            observer.cancel()
            with pytest.raises(Cancelled):
                await observer.read("Hi")

    async def test_nobody_is_said(self, make: Callable[..., Any], nobody: str) -> None:
        async with make(nobody) as client:
            with pytest.raises(ConnectionFailed):
                async with client.observe() as observer:
                    await observer.read("Hi")
            with pytest.raises(ConnectionFailed):
                async with client.observe():
                    pass

    async def test_a_text_that_is_none_leaves_the_observation_as_it_is(self, either: AsyncClient) -> None:
        async with either.observe() as observer:
            with pytest.raises(InvalidValue, match="text: 5 is not a string"):
                await observer.read(5)  # type: ignore[arg-type]
            assert (await observer.read("Hi")).position == 5


class TestObserve:
    def test_another_thread_may_cancel_a_reader_that_waits(self, server: FakeServer, client: Client) -> None:
        server.answers["Observe"] = waiting(server)
        observer = client.observe()
        timer = threading.Timer(0.1, observer.cancel)
        timer.start()
        with pytest.raises(Cancelled):
            observer.read("Hi")
        timer.join()

    def test_the_deadline_is_that_of_the_whole(self, server: FakeServer, client: Client) -> None:
        server.answers["Observe"] = waiting(server)
        with pytest.raises(DeadlineExceeded), client.observe(timeout=0.2) as observer:
            observer.read("Hi")
        with Client(server.target, timeout=300) as other, other.observe():
            pass
        assert server.remaining["Observe"] == pytest.approx(300, abs=30)

    def test_no_thread_waits_for_a_call_that_is_over(self, server: FakeServer, client: Client) -> None:
        before = threads()
        with client.observe() as observer:
            observer.read("Hi")
            assert len(threads() - before) == 2
        eventually(lambda: threads() <= before)
        server.answers["Observe"] = GONE
        kept = client.observe()
        eventually(lambda: threads() <= before)
        with pytest.raises(NotFound):
            kept.read("Hi")

    def test_a_forgotten_observer_keeps_neither_call_nor_thread(self, server: FakeServer, client: Client) -> None:
        before = threads()
        server.answers["Observe"] = waiting(server)
        observer = client.observe()
        eventually(lambda: bool(server.calls))
        del observer
        gc.collect()
        assert server.ended.wait(30)
        eventually(lambda: threads() <= before)

    def test_a_closed_client_says_so(self, server: FakeServer) -> None:
        with Client(server.target) as client:
            observer = client.observe()
        with pytest.raises(Cancelled):
            observer.read("Hi")
        with pytest.raises(RuntimeError, match="this client is closed"):
            client.observe()

    def test_ctrl_c_while_it_waits_leaves_no_call(self, server: FakeServer, client: Client) -> None:
        def interrupt(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            server.note_end(context)
            next(requests)
            next(requests)
            interrupt_soon()
            server.ended.wait(120)
            yield from ()

        server.answers["Observe"] = interrupt
        observer = client.observe()
        with pytest.raises(KeyboardInterrupt):
            observer.read("Hi")
        assert server.ended.wait(30)


def test_a_call_that_is_over_before_anyone_listens_lets_its_thread_go() -> None:
    class Over:
        def add_callback(self, callback: Callable[[], None]) -> bool:
            return False

    taken: list[Iterator[int]] = []
    Duplex(lambda requests: taken.append(requests) or Over(), 7, somewhere())  # type: ignore[arg-type, func-returns-value]
    assert list(taken[0]) == [7]


def test_a_call_that_fails_while_a_message_is_sent_says_why() -> None:
    class Failing(grpc.RpcError):
        """It fails just after it was asked whether it is active."""

        active = True

        def add_callback(self, callback: Callable[[], None]) -> bool:
            self.failed = callback
            return True

        def is_active(self) -> bool:
            was, self.active = self.active, False
            if was:
                self.failed()
            return was

        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "Deadline Exceeded"

        def trailing_metadata(self) -> tuple[()]:
            return ()

    duplex: Duplex[Any, Any] = Duplex(lambda _: Failing(), 7, somewhere())  # type: ignore[arg-type, return-value]
    with pytest.raises(DeadlineExceeded):
        duplex.send(8)


class TestAsyncObserve:
    async def test_cancel_while_the_connection_is_made_ends_the_wait(self, nowhere: str) -> None:
        async with AsyncClient(nowhere) as client:
            observer = client.observe()
            reader = asyncio.create_task(observer.read("Hi"))
            await asyncio.sleep(0.1)
            observer.cancel()
            with pytest.raises(Cancelled):
                await asyncio.wait_for(reader, 30)

    async def test_cancel_by_another_task_does_not_cancel_the_reader(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Observe"] = waiting(server)
        observer = async_client.observe()
        reader = asyncio.create_task(observer.read("Hi"))
        await asyncio.sleep(0.1)
        observer.cancel()
        with pytest.raises(Cancelled):
            await reader

    async def test_cancelling_the_task_cancels_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Observe"] = waiting(server)
        observer = async_client.observe()
        reader = asyncio.ensure_future(observer.read("Hi"))
        await server.reached("Observe")
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_closing_the_client_ends_it(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Observe"] = waiting(server)
        observer = async_client.observe()
        reader = asyncio.create_task(observer.read("Hi"))
        await asyncio.sleep(0.1)
        await async_client.close()
        with pytest.raises(Cancelled):
            await reader
        with pytest.raises(RuntimeError, match="this client is closed"):
            async_client.observe()

    async def test_a_forgotten_observer_does_not_keep_the_call(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Observe"] = watched(server)
        observer = async_client.observe()
        await observer.read("Hi")
        del observer
        gc.collect()
        assert await asyncio.to_thread(server.ended.wait, 30)

    def test_there_must_be_a_loop(self, server: FakeServer) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            AsyncClient(server.target).observe()
        with pytest.raises(RuntimeError, match="no running event loop"):
            AsyncClient(server.target).converse()
