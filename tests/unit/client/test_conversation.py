"""Text that is steered while it is generated."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from charloom.client import (
    Applied,
    AsyncClient,
    AsyncConversation,
    Cancelled,
    Client,
    ConnectionFailed,
    ConversationEvent,
    ConversationText,
    DeadlineExceeded,
    Ended,
    InvalidArgument,
    InvalidValue,
    NotFound,
)
from charloom.v1 import conversation_pb2, generation_pb2
from tests.unit.client.fake_answers import PIECES, TEXT, abort, converse, error_info, failing
from tests.unit.client.fake_server import FakeServer

GONE = failing(grpc.StatusCode.NOT_FOUND, "there is no session", error_info("SESSION_NOT_FOUND"))
Message = conversation_pb2.ConverseRequest


def messages(server: FakeServer) -> list[conversation_pb2.ConverseRequest]:
    return server.asked("Converse")


def texts(events: list[ConversationEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, ConversationText)]


def endless(server: FakeServer) -> Callable[..., Iterator[Any]]:
    """Text without end from `generate` on, until the client closes its side; sets `ended` when the call is over."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        def listen() -> None:
            with contextlib.suppress(Exception):  # of a call that was cancelled
                for number, request in enumerate(requests):
                    heard.append(number)
                    if request.HasField("generate"):
                        asked.set()
            closed.set()
            asked.set()

        heard: list[int] = []
        asked, closed = threading.Event(), threading.Event()
        server.note_end(context)
        context.add_callback(closed.set)
        threading.Thread(target=listen, daemon=True).start()
        asked.wait(30)
        position = 0
        while not closed.is_set():
            while heard:
                yield conversation_pb2.ConverseResponse(position=position, applied=heard.pop(0))
            position += 1
            yield conversation_pb2.ConverseResponse(position=position, text="x")
            time.sleep(0.002)
        while heard:
            yield conversation_pb2.ConverseResponse(position=position, applied=heard.pop(0))

    return answer


def failing_after_the_text(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    for answer in converse(requests, context):
        if answer.HasField("ended"):
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "inject: unknown", error_info("INVALID_REQUEST"))
        yield answer


def of_the_future(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    for answer in converse(requests, context):
        yield conversation_pb2.ConverseResponse(position=99)
        yield answer


async def read_into(seen: list[ConversationEvent], talk: AsyncConversation) -> None:
    async for event in talk:
        seen.append(event)


class TestEither:
    async def test_each_method_sends_one_message_and_returns_its_number(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.converse("Hi", model="small", temperature=0.5, seed=7) as talk:
            assert await talk.inject("é") == 1
            assert await talk.generate(9) == 2
            assert await talk.set(top_k=3, temperature=None) == 3
            assert await talk.pause() == 4
            assert await talk.generate() == 5
            await talk.close()
            assert [event.number async for event in talk if isinstance(event, Applied)] == [0, 1, 2, 3, 4, 5]
            assert [event async for event in talk] == []
        start = generation_pb2.GenerationOptions(
            model="small", prompt="Hi", seed=7, sampling=generation_pb2.Sampling(temperature=0.5)
        )
        pause = Message()
        pause.pause.SetInParent()
        assert messages(server) == [
            Message(start=start),
            Message(inject="é"),
            Message(generate=conversation_pb2.Generate(max_tokens=9)),
            Message(sampling=generation_pb2.Sampling(top_k=3)),
            pause,
            Message(generate=conversation_pb2.Generate()),
        ]

    async def test_setting_nothing_takes_the_defaults(self, server: FakeServer, either: AsyncClient) -> None:
        async with either.converse() as talk:
            await talk.set()
            await talk.close()
            assert len([event async for event in talk]) == 2
        assert messages(server)[1].HasField("sampling")

    async def test_events_are_told_in_the_servers_order(self, either: AsyncClient) -> None:
        async with either.converse("Hi") as talk:
            assert await anext(talk) == Applied(number=0, position=2)
            await talk.inject("abc")
            assert await anext(talk) == Applied(number=1, position=2)
            await talk.generate(16)
            assert await anext(talk) == Applied(number=2, position=5)
            assert [await anext(talk) for _ in PIECES] == [
                ConversationText(text="Once ", position=10),
                ConversationText(text="upon", position=14),
                ConversationText(text=" a time", position=21),
            ]
            last = await anext(talk)
            assert isinstance(last, Ended)
            assert (last.position, last.result.seed, last.result.session) == (21, 42, None)
            await talk.close()
            for _ in range(2):
                assert [event async for event in talk] == []

    async def test_a_session_goes_on_with_it_and_learns_of_its_end(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        async with either.session(id="s1") as session:
            async with session.converse("Hi") as talk:
                await talk.generate(16)
                await talk.close()
                events = [event async for event in talk]
            assert "".join(texts(events)) == TEXT
            assert (session.info.position, session.info.version) == (19, 1)
        assert messages(server)[0].start == generation_pb2.GenerationOptions(session_id="s1", prompt="Hi")

    async def test_leaving_early_cancels_the_call(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Converse"] = endless(server)
        async with either.converse() as talk:
            await talk.generate()
            assert isinstance(await anext(talk), Applied)
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await anext(talk)
        with pytest.raises(Cancelled):
            await talk.inject("late")

    async def test_leaving_after_the_end_cancels_nothing(self, either: AsyncClient) -> None:
        async with either.converse() as talk:
            await talk.close()
            assert len([event async for event in talk]) == 1
        assert [event async for event in talk] == []

    async def test_closing_lets_the_text_come_to_its_end(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Converse"] = endless(server)
        async with either.converse() as talk:
            await talk.generate()
            for _ in range(20):
                await anext(talk)
            await talk.close()
            await talk.close()
            rest = [event async for event in talk]
        assert all(isinstance(event, ConversationText | Applied) for event in rest)
        assert texts(rest) == ["x"] * len(texts(rest))
        with pytest.raises(RuntimeError, match="this stream is closed"):
            await talk.generate()

    async def test_leaving_the_session_ends_it(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Converse"] = endless(server)
        async with either.session() as session:
            talk = session.converse()
            await talk.generate()
            await anext(talk)
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            [event async for event in talk]

    async def test_an_error_takes_no_text_back_and_stays(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Converse"] = failing_after_the_text
        seen: list[ConversationEvent] = []
        async with either.converse() as talk:
            await talk.generate(16)
            for _ in range(2):
                with pytest.raises(InvalidArgument, match="inject: unknown"):
                    await read_into(seen, talk)
        assert "".join(texts(seen)) == TEXT

    async def test_events_of_a_later_version_are_passed_over(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Converse"] = of_the_future
        async with either.converse() as talk:
            await talk.generate(16)
            await talk.close()
            events = [event async for event in talk]
        assert len(events) == 2 + len(PIECES) + 1
        assert all(event.position != 99 for event in events)

    @pytest.mark.parametrize(
        ("use", "words"),
        [
            (lambda talk: talk.inject(5), "text: 5 is not a string"),
            (lambda talk: talk.generate(-1), "max_tokens: -1 is not between"),
            (lambda talk: talk.set(top_k=1.5), "top_k: 1.5 is not a whole number"),
        ],
    )
    async def test_what_no_message_can_carry_is_refused_and_has_no_number(
        self, either: AsyncClient, use: Callable[[Any], Any], words: str
    ) -> None:
        async with either.converse() as talk:
            with pytest.raises(InvalidValue, match=words):
                await use(talk)
            assert await talk.pause() == 1

    @pytest.mark.parametrize("name", ["seed", "max_tokens", "stop", "tempature"])
    async def test_only_sampling_options_can_be_set(self, either: AsyncClient, name: str) -> None:
        async with either.converse() as talk:
            with pytest.raises(TypeError, match=f"unknown option {name}; the options are allow"):
                await talk.set(**{name: 1})  # type: ignore[misc]

    async def test_nobody_is_said(self, make: Callable[..., Any], nobody: str) -> None:
        async with make(nobody) as client, client.converse() as talk:
            for _ in range(2):
                with pytest.raises(ConnectionFailed):
                    await anext(talk)
            with pytest.raises(ConnectionFailed):
                await talk.generate()

    async def test_a_forgotten_conversation_does_not_keep_the_call(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Converse"] = endless(server)
        talk = either.converse()
        await talk.generate()
        await anext(talk)
        del talk
        gc.collect()
        assert await asyncio.to_thread(server.ended.wait, 30)


class TestBlocking:
    def test_another_thread_may_steer_while_one_reads(self, server: FakeServer, client: Client) -> None:
        def steer() -> None:
            for _ in range(50):
                numbers.append(talk.inject("!"))
            talk.close()

        server.answers["Converse"] = endless(server)
        numbers: list[int] = []
        with client.converse() as talk:
            numbers.append(talk.generate())
            thread = threading.Thread(target=steer)
            thread.start()
            applied = [event.number for event in talk if isinstance(event, Applied)]
            thread.join()
        assert numbers == list(range(1, 52))
        assert applied == list(range(52))

    def test_no_two_messages_share_a_number(self, server: FakeServer, client: Client) -> None:
        def steer() -> None:
            for _ in range(100):
                text = f"{threading.get_ident()}"
                sent.append((talk.inject(text), text))

        sent: list[tuple[int, str]] = []
        with client.converse() as talk:
            threads = [threading.Thread(target=steer) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            talk.close()
            assert len(list(talk)) == 401
        assert sorted(number for number, _ in sent) == list(range(1, 401))
        assert dict(sent) == {number: message.inject for number, message in enumerate(messages(server)) if number}

    def test_a_start_that_is_refused_is_told_to_the_reader(self, server: FakeServer, client: Client) -> None:
        server.answers["Converse"] = GONE
        with client.session(id="s1") as session, session.converse() as talk:
            for _ in range(2):
                with pytest.raises(NotFound, match="no session"):
                    next(talk)
            with pytest.raises(NotFound, match="no session"):
                talk.generate()

    def test_another_thread_may_cancel_a_reader_that_waits(self, server: FakeServer, client: Client) -> None:
        with client.converse() as talk:
            next(talk)
            timer = threading.Timer(0.1, talk.cancel)
            timer.start()
            with pytest.raises(Cancelled):
                next(talk)
            timer.join()

    def test_the_deadline_is_that_of_the_whole(self, server: FakeServer, client: Client) -> None:
        with pytest.raises(DeadlineExceeded), client.converse(timeout=0.2) as talk:
            list(talk)

    def test_a_closed_client_says_so(self, server: FakeServer) -> None:
        with Client(server.target) as client:
            talk = client.converse()
            next(talk)
        with pytest.raises(Cancelled):
            next(talk)
        with pytest.raises(RuntimeError, match="this client is closed"):
            client.converse()


class TestAsyncio:
    async def test_nobody_is_said_to_who_sends_first(self, nobody: str) -> None:
        async with AsyncClient(nobody) as client, client.converse() as talk:
            with pytest.raises(ConnectionFailed):
                await talk.generate()

    async def test_reading_begins_it_too(self, async_client: AsyncClient) -> None:
        async with async_client.converse("Hi") as talk:
            assert await anext(talk) == Applied(number=0, position=2)

    async def test_other_tasks_may_steer_while_one_reads(self, server: FakeServer, async_client: AsyncClient) -> None:
        async def read() -> list[int]:
            return [event.number async for event in talk if isinstance(event, Applied)]

        server.answers["Converse"] = endless(server)
        async with async_client.converse() as talk:
            reader = asyncio.create_task(read())
            numbers = [await talk.generate()]
            numbers += await asyncio.gather(*(talk.inject("!") for _ in range(50)))
            await talk.close()
            assert await reader == list(range(52))
        assert sorted(numbers) == list(range(1, 52))

    async def test_a_start_that_is_refused_is_told_to_everyone(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        """However the server's answer and what is sent meanwhile meet."""

        async def converse() -> None:
            async with async_client.converse() as talk:
                for number in range(4):
                    await talk.generate(number)
                async for _ in talk:
                    pass

        server.answers["Converse"] = GONE
        for _ in range(100):
            with pytest.raises(NotFound, match="no session"):
                await converse()

    async def test_text_before_an_error_arrives_whatever_is_sent_meanwhile(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        def broken(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            next(requests)
            for position, piece in enumerate(PIECES):
                yield conversation_pb2.ConverseResponse(position=position, text=piece)
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "no more", error_info("INVALID_REQUEST"))

        server.answers["Converse"] = broken
        for _ in range(20):
            async with async_client.converse() as talk:
                for _ in range(5):
                    await talk.pause()
                    await asyncio.sleep(0.002)
                seen = [await anext(talk) for _ in PIECES]
                with pytest.raises(InvalidArgument, match="no more"):
                    await anext(talk)
            assert texts(seen) == list(PIECES)

    async def test_cancel_by_another_task_does_not_cancel_the_reader(self, async_client: AsyncClient) -> None:
        async with async_client.converse() as talk:
            await anext(talk)
            reader = asyncio.create_task(anext(talk))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            talk.cancel()
            with pytest.raises(Cancelled):
                await reader

    async def test_cancelling_the_task_cancels_the_call(self, server: FakeServer, async_client: AsyncClient) -> None:
        server.answers["Converse"] = endless(server)
        talk = async_client.converse()
        reader = asyncio.ensure_future(anext(talk))
        await server.reached("Converse")
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert await asyncio.to_thread(server.ended.wait, 30)
        with pytest.raises(Cancelled):
            await talk.generate()

    async def test_closing_the_client_ends_it(self, async_client: AsyncClient) -> None:
        talk = async_client.converse()
        await anext(talk)
        reader = asyncio.create_task(anext(talk))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        await async_client.close()
        with pytest.raises(Cancelled):
            await reader
