"""Whatever breaks a call off that is not the server is `ConnectionFailed`, by every kind of call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from charloom.client import (
    AsyncClient,
    Cancelled,
    CharloomError,
    Client,
    ConnectionFailed,
    Overloaded,
)
from tests.ports import free_port
from tests.programs import needed
from tests.unit.client.fake_answers import abort, error_info, failing
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy

pytestmark = pytest.mark.usefixtures("impatient")

CODE = grpc.StatusCode
CALLS: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "complete": lambda client: client.complete("Hi", timeout=None),
    "generate": lambda client: client.generate("Hi", resume=False).result(),
    "continuations": lambda client: client.continuations("Hi", n=2).completions(),
    "score": lambda client: client.score("Hi"),
    "peek": lambda client: client.peek("Hi"),
    "inspect": lambda client: client.inspect("Hi"),
    "observe": lambda client: client.observe().read("Hi"),
    "classify": lambda client: client.classify("Hi"),
    "classify_stream": lambda client: client.classify_stream().read("Hi"),
    "converse": lambda client: anext(client.converse("Hi")),
    "session": lambda client: _open(client),
    "sessions": lambda client: anext(client.sessions()),
    "models": lambda client: client.models(),
    "health": lambda client: client.health(),
}
with_both_kinds_of_streams = pytest.mark.parametrize("shared_stream", [False, True])
AT_ONCE = {"channel_options": [("grpc.enable_retries", 0)]}
"""For clients that do not try again what may be: gRPC pauses between its tries."""
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def assert_breaks(call: Callable[[AsyncClient], Awaitable[Any]], client: AsyncClient, address: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        await call(client)
    assert address in str(caught.value)


async def _open(client: AsyncClient) -> None:
    await client.session()


def silent(server: FakeServer) -> None:
    """Let every call wait until the server is stopped."""

    def one(request: Any, context: grpc.ServicerContext) -> None:
        server.ended.wait(120)
        abort(context, CODE.ABORTED, "the test is over")

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if not isinstance(request, Message):
            next(request)
        server.ended.wait(120)
        yield from ()

    streams = {"Generate", "GenerateMany", "Inspect", "Observe", "Converse", "ClassifyStream", "ClassifyMany"}
    server.answers = {method: many if method in streams else one for method in server.answers}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (CODE.UNAVAILABLE, "Received http2 header with status: 502"),
        (CODE.INTERNAL, "Received RST_STREAM with error code 2"),
        (CODE.RESOURCE_EXHAUSTED, "Received RST_STREAM with error code 11"),
        (CODE.PERMISSION_DENIED, "Received RST_STREAM with error code 12"),
        (CODE.UNKNOWN, "Stream removed"),
        (CODE.CANCELLED, "Received RST_STREAM with error code 8"),
    ],
)
async def test_a_status_that_is_not_the_servers_own(
    server: FakeServer, make: Callable[..., Any], code: grpc.StatusCode, words: str
) -> None:
    server.answers = dict.fromkeys(server.answers, failing(code, words))
    async with make(server.target, **AT_ONCE) as client:
        for call in CALLS.values():
            with pytest.raises(ConnectionFailed, match=words) as caught:
                await call(client)
            assert server.target in str(caught.value)


async def test_a_call_beyond_those_that_a_connection_may_have(server: FakeServer, make: Callable[..., Any]) -> None:
    words = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
    server.answers = dict.fromkeys(server.answers, failing(CODE.UNAVAILABLE, words))
    async with make(server.target, **AT_ONCE) as client:
        for call in CALLS.values():
            with pytest.raises(Overloaded, match="--max-streams") as caught:
                await call(client)
            assert caught.value.retry_after is not None


@every_call
async def test_a_connection_that_is_reset(
    server: FakeServer, proxy: Proxy, make: Callable[..., Any], call: Any
) -> None:
    silent(server)
    over = threading.Event()

    def reset() -> None:
        """Once the call is there, and each time that it is made again."""
        while not over.is_set():
            calls = len(server.calls)
            while len(server.calls) == calls and not over.is_set():
                time.sleep(0.02)
            proxy.cut()

    resetting = threading.Thread(target=reset)
    resetting.start()
    try:
        async with make(proxy.target, timeout=60) as client:
            await assert_breaks(call, client, proxy.target)
    finally:
        over.set()
        resetting.join()


@with_both_kinds_of_streams
async def test_a_call_that_has_begun_breaks_for_who_reads_it_and_for_who_sends(
    server: FakeServer, proxy: Proxy, make: Callable[..., Any]
) -> None:
    """A piece has come of each kind of stream. What is sent into one that broke says so too."""

    def one_and_wait(answer: Any) -> Any:
        def begin(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield next(answer(request, context))
            server.ended.wait(120)

        return begin

    for method in ("Generate", "Observe", "Converse"):
        server.answers[method] = one_and_wait(server.answers[method])
    async with make(proxy.target, timeout=60) as client:
        text, several = client.generate("Hi", resume=False), client.continuations("Hi", n=2)
        talk, observer = client.converse("Hi"), client.observe()
        for one in (text, several, talk):
            await anext(one)
        await observer.read("Hi")
        proxy.backend = None
        proxy.cut()
        for end in (text.result(), anext(several), anext(talk), observer.read("Ho")):
            with pytest.raises(ConnectionFailed, match=proxy.target):
                await end
        for end in (talk.inject("Ho"), talk.generate(), talk.pause(), observer.read("Ho")):
            with pytest.raises(ConnectionFailed, match=proxy.target):
                await end


HAPROXY = """
defaults
    mode http
    retries 0
    timeout connect 10s
    timeout client 60s
    timeout server 100ms
frontend front
    bind 127.0.0.1:{port} proto h2
    default_backend back
backend back
    server only {server} proto h2
"""


@contextmanager
def haproxy(server: str, folder: Path) -> Iterator[str]:
    """HAProxy in front of a server; yields its address."""
    program = needed("haproxy")
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, server=server), "utf-8")
    running = subprocess.Popen([program, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port}", timeout=60) as client, pytest.raises(CharloomError):
            client._connection.call(client._connection._check, b"", 60, wait_for_ready=True)
        yield f"127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


async def test_a_proxy_without_a_server(nobody: str, tmp_path: Path, make: Callable[..., Any]) -> None:
    with haproxy(nobody, tmp_path) as address:
        async with make(address, timeout=60, **AT_ONCE) as client:
            for call in CALLS.values():
                await assert_breaks(call, client, address)


async def test_a_proxy_whose_server_does_not_answer(
    server: FakeServer, tmp_path: Path, make: Callable[..., Any]
) -> None:
    silent(server)
    with haproxy(server.target, tmp_path) as address:
        async with make(address, timeout=60, **AT_ONCE) as client:
            for call in CALLS.values():
                await assert_breaks(call, client, address)


@with_both_kinds_of_streams
async def test_a_call_that_its_caller_cancelled_is_no_break(server: FakeServer, either: AsyncClient) -> None:
    silent(server)
    text, several, talk = either.generate("Hi"), either.continuations("Hi", n=2), either.converse("Hi")
    for call in (text, several, talk):
        call.cancel()
        with pytest.raises(Cancelled):
            await anext(call)


@every_call
@with_both_kinds_of_streams
async def test_a_task_that_is_cancelled_while_its_client_is_closed_ends(
    server: FakeServer, async_client: AsyncClient, call: Any
) -> None:
    """An error of the call would let a task go on that treats one call after the other."""

    async def work() -> None:
        await call(async_client)

    silent(server)
    task = asyncio.create_task(work())
    while not server.calls:
        await asyncio.sleep(0.01)
    task.cancel()
    await async_client.close()
    with pytest.raises(asyncio.CancelledError if sys.version_info >= (3, 11) else Cancelled):
        await task


@with_both_kinds_of_streams
async def test_what_the_server_says_itself_is_told_as_it_is(server: FakeServer, either: AsyncClient) -> None:
    server.answers["Generate"] = failing(CODE.CANCELLED, "stopped", error_info("STOPPED"))
    with pytest.raises(Cancelled, match="stopped"):
        await either.complete("Hi")
    server.answers["Generate"] = failing(CODE.RESOURCE_EXHAUSTED, "too many calls")
    with pytest.raises(Overloaded, match="too many calls"):
        await either.complete("Hi")
