"""Broken streams that their readers give up while they are resumed, blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from charloom.client import (
    AsyncClient,
    AsyncTextStream,
    Cancelled,
    Client,
    _resumption,
)
from charloom.client._resumption import Resumption
from charloom.client._sync.resuming import ResumingCall
from charloom.v1 import generation_pb2
from tests.unit.client.fake_answers import PIECES, breaking, error_info, failing, in_turn, retry_info
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.twins import somewhere, with_and_without
from tests.waiting import eventually

shared_stream = with_and_without

CODE = grpc.StatusCode
LOST = breaking(1, CODE.UNAVAILABLE, "connection reset")
FULL = failing(CODE.RESOURCE_EXHAUSTED, "many calls are waiting", error_info("OVERLOADED"), retry_info(3600))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_resumption, "LONGEST", 0.05)


def asked_again(server: FakeServer, times: int = 3) -> None:
    """Wait until a broken call has been tried again, and is likely to be in a pause."""
    eventually(lambda: len(server.asked("Generate")) >= times)


async def reading(server: FakeServer, text: AsyncTextStream) -> asyncio.Task[Any]:
    """A task that reads a broken text to its end, once the call has been tried again."""
    reader = asyncio.create_task(text.result())
    await asyncio.to_thread(asked_again, server)
    return reader


def no_more_tries(server: FakeServer) -> None:
    """Wait until no try comes in the time of some pauses; one may have been on its way."""

    def none() -> bool:
        before = len(server.asked("Generate"))
        time.sleep(0.3)
        return len(server.asked("Generate")) == before

    eventually(none, 10)


class TestStopping:
    """Between two tries no call is there that could be cancelled."""

    def test_cancel_ends_the_wait(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = LOST
        text = client.generate("Hi")
        assert next(text) == PIECES[0]
        timer = threading.Thread(target=lambda: (asked_again(server), text.cancel()))
        timer.start()
        with pytest.raises(Cancelled):
            next(text)
        timer.join()
        no_more_tries(server)

    def test_closing_the_client_ends_the_wait(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = LOST
        text = client.generate("Hi")
        assert next(text) == PIECES[0]
        timer = threading.Thread(target=lambda: (asked_again(server), client.close()))
        timer.start()
        with pytest.raises(Cancelled):
            next(text)
        timer.join()

    def test_leaving_the_block_of_a_broken_stream_tries_nothing_more(self, server: FakeServer, client: Client) -> None:
        server.answers["Generate"] = LOST
        with client.generate("Hi") as text:
            assert next(text) == PIECES[0]
        with pytest.raises(Cancelled):
            next(text)
        assert len(server.asked("Generate")) == 1

    def test_an_interrupt_ends_the_wait(
        self, server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
            if threading.current_thread() is not threading.main_thread():
                return wait(event, timeout)
            monkeypatch.undo()
            raise KeyboardInterrupt

        wait = threading.Event.wait

        server.answers["Generate"] = LOST
        text = client.generate("Hi")
        assert next(text) == PIECES[0]
        monkeypatch.setattr(threading.Event, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(text)
        with pytest.raises(Cancelled):
            next(text)
        assert len(server.asked("Generate")) == 1

    def test_cancel_while_the_call_is_being_made_again_reaches_it(self) -> None:
        class Broken:
            cancelled = False

            def __next__(self) -> Any:
                raise grpc.aio.AioRpcError(CODE.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), details="lost")

            def cancel(self) -> None:
                self.cancelled = True

        def make(request: Any, seconds: float | None) -> Broken:
            made.append(Broken())
            if len(made) == 2:
                resuming.cancel()
            return made[-1]

        made: list[Broken] = []
        way = Resumption(generation_pb2.GenerateRequest(), None, somewhere(), enabled=True)
        resuming = ResumingCall(make, way, somewhere())
        with pytest.raises(Cancelled):
            next(resuming)
        assert [one.cancelled for one in made] == [True, True]

    async def test_a_resumed_call_can_be_cancelled(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = in_turn(failing(CODE.INTERNAL, "lost"), server.answer_and_wait)
        async with either.generate("Hi") as text:
            assert await anext(text) == PIECES[0]
            assert text.resumptions == 1
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_a_forgotten_stream_does_not_keep_a_resumed_call(
        self, server: FakeServer, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = in_turn(failing(CODE.INTERNAL, "lost"), server.answer_and_wait)
        text = either.generate("Hi")
        assert await anext(text) == PIECES[0]
        del text
        gc.collect()
        assert await asyncio.to_thread(server.ended.wait, 30)

    async def test_asyncio_cancel_by_another_task_ends_the_wait(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with _broken(server, async_client) as text:
            reader = await reading(server, text)
            text.cancel()
            with pytest.raises(Cancelled):
                await asyncio.wait_for(reader, 30)

    async def test_asyncio_cancelling_the_task_ends_the_wait(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with _broken(server, async_client) as text:
            reader = await reading(server, text)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await asyncio.to_thread(no_more_tries, server)

    async def test_asyncio_cancelling_stream_and_task_cancels_the_task(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with _broken(server, async_client) as text:
            reader = await reading(server, text)
            text.cancel()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError if sys.version_info >= (3, 11) else Cancelled):
                await reader

    async def test_closing_the_client_ends_a_wait_of_an_hour(
        self, server: FakeServer, client: Client, async_client: AsyncClient
    ) -> None:
        """As long as a server may ask for that is full."""
        server.answers["Generate"] = in_turn(LOST, FULL, LOST, FULL)

        def read() -> None:
            with pytest.raises(Cancelled):
                client.generate("Hi", timeout=7200).result()

        reader = asyncio.create_task(asyncio.to_thread(read))
        await asyncio.to_thread(asked_again, server, 2)
        client.close()
        await reader
        other = asyncio.create_task(async_client.generate("Hi", timeout=7200).result())
        await asyncio.to_thread(asked_again, server, 4)
        await async_client.close()
        with pytest.raises(Cancelled):
            await other

    async def test_asyncio_closing_the_client_ends_the_wait(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        async with _broken(server, async_client) as text:
            reader = await reading(server, text)
            await async_client.close()
            with pytest.raises(Cancelled):
                await reader


@asynccontextmanager
async def _broken(server: FakeServer, client: AsyncClient) -> AsyncIterator[Any]:
    """A stream that has lost its server after the first piece."""
    server.answers["Generate"] = LOST
    text = client.generate("Hi")
    assert await anext(text) == PIECES[0]
    yield text
