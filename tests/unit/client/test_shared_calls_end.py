"""How calls that share a stream are cancelled, are collected, and end with their loop or process."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from charloom.client import AsyncClient, Cancelled, Client
from tests.unit.client.fake_answers import PIECES, TEXT
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.shared_streams import Streams, always, holding, noted, present

shared_stream, streams = always, noted


class TestCancelling:
    @pytest.mark.parametrize("how", ["method", "block", "collector"])
    async def test_of_one_reaches_the_server_and_leaves_the_others(
        self, server: FakeServer, streams: Streams, either: AsyncClient, how: str
    ) -> None:
        server.answers["Generate"] = holding(server)
        other, text = either.generate("other"), either.generate("this")
        for one in (other, text):
            assert await anext(one) == PIECES[0]
        if how == "method":
            text.cancel()
        elif how == "block":
            async with text:
                pass
        del one, text
        gc.collect()
        assert await _cancelled(server) == [1]
        server.ended.set()
        await other.result()
        assert other.text == TEXT
        assert streams.begun == 1

    async def test_of_the_task_that_reads_leaves_the_others(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        server.answers["Generate"] = holding(server)
        other, text = async_client.generate("other"), async_client.generate("this")
        for one in (other, text):
            assert await anext(one) == PIECES[0]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(text.result(), 0.05)
        assert await _cancelled(server) == [1]
        server.ended.set()
        await other.result()
        assert other.text == TEXT

    async def test_of_a_call_that_the_server_has_not_been_told_of_lets_it_never_begin(
        self, server: FakeServer, async_client: AsyncClient
    ) -> None:
        """A message cancels before it begins, so one that did both would begin a call that nobody ends."""
        async_client.generate("never").cancel()
        assert (await async_client.complete("Hi")).text == TEXT
        assert [one.options.prompt for one in server.asked("Generate")] == ["Hi"]

    async def test_what_has_arrived_and_is_not_read_is_dropped(self, either: AsyncClient) -> None:
        text = either.generate("Hi")
        assert await anext(text) == PIECES[0]
        assert (await either.complete("Hi")).text == TEXT  # the rest of the first one came before this
        text.cancel()
        for _ in range(2):
            with pytest.raises(Cancelled):
                await anext(text)
        assert text.text == PIECES[0]

    async def test_of_a_last_call_closes_a_stream_that_is_old(
        self, server: FakeServer, streams: Streams, either: AsyncClient
    ) -> None:
        server.answers["Generate"] = holding(server, "long")
        long = either.generate("long")
        assert await anext(long) == PIECES[0]
        present(either)._old_at = 0.0
        assert (await either.complete("Hi")).text == TEXT
        assert streams.runs(0)
        long.cancel()
        assert await streams.is_over(0)

    async def test_by_closing_the_client_ends_all(self, server: FakeServer, either: AsyncClient) -> None:
        server.answers["Generate"] = holding(server)
        texts = [either.generate(str(number)) for number in range(5)]
        for text in texts:
            assert await anext(text) == PIECES[0]
        await either.close()
        assert not asyncio.all_tasks() - {asyncio.current_task()}
        for text in texts:
            with pytest.raises(Cancelled):
                await text.result()
        with pytest.raises(RuntimeError, match="this client is closed"):
            either.generate("Hi")


async def _cancelled(server: FakeServer) -> list[int]:
    """The numbers of the calls that the server was told to cancel, once there is one."""

    def told() -> list[int]:
        return [number for message in server.asked("GenerateMany") for number in message.cancel]

    await _eventually(lambda: bool(told()))
    return told()


async def _eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


class TestCollecting:
    async def test_calls_that_have_ended_are_not_kept(self, either: AsyncClient) -> None:
        for number in range(20):
            assert (await either.complete(str(number))).text == TEXT
        stream = present(either)
        await _eventually(lambda: not (stream._calls if isinstance(either, AsyncClient) else stream._inboxes))

    async def test_those_that_were_read_leave_no_cycles(self, either: AsyncClient) -> None:
        """The collector would have to find each of them."""
        gc.disable()
        try:
            text = either.generate("Hi")
            await text.result()
            call = weakref.ref(getattr(text, "_blocking", text)._call._call)
            assert call() is not None
            del text
            assert call() is None
        finally:
            gc.enable()

    async def test_a_collector_may_run_while_a_lock_is_held(self, server: FakeServer, client: Client) -> None:
        """It runs wherever a thread is just then, in the midst of sending or of receiving too."""
        server.answers["Generate"] = holding(server)
        text = client.generate("Hi")
        assert next(text) == PIECES[0]
        stream = present(client)
        with client._connection._shared._lock, stream._lock, stream._duplex._outbox._lock:
            del text
            gc.collect()
        assert await _cancelled(server) == [0]


ABRUPT_ENDS = {
    "the loop ends in the midst of a text": """
async def main():
    client = AsyncClient(target, shared_stream=True)
    text = client.generate("Hi")
    await anext(text)
    return client, text
kept = asyncio.run(main())
""",
    "a loop is closed right after the client": """
async def main():
    async with AsyncClient(target, shared_stream=True) as client:
        text = client.generate("Hi")
        await anext(text)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
    "the process ends in the midst of a text": """
client = Client(target, shared_stream=True)
text = client.generate("Hi")
next(text)
""",
    "the process ends while other threads read": """
import threading
client = Client(target, shared_stream=True)
texts = [client.generate("Hi") for _ in range(3)]
for text in texts:
    next(text)
    threading.Thread(target=lambda text=text: list(text), daemon=True).start()
""",
    "the process ends after the client": """
with Client(target, shared_stream=True) as client:
    next(client.generate("Hi"))
""",
}


@pytest.mark.parametrize("script", ABRUPT_ENDS.values(), ids=ABRUPT_ENDS)
def test_nothing_is_left_behind_or_keeps_the_process(server: FakeServer, script: str) -> None:
    server.answers["Generate"] = server.answer_and_wait
    begin = (
        "import asyncio, logging\n"
        'logging.getLogger("asyncio").setLevel(logging.ERROR)  # its warnings are of slow machines\n'
        f"from charloom.client import AsyncClient, Client\ntarget = {server.target!r}\n"
    )
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", begin + script], capture_output=True, text=True, timeout=500
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert server.ended.wait(30)
