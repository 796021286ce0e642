"""How long a connection waits for its reader."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from charloom.server.http import connections
from charloom.server.http.connections import Connection, UvicornServer, uvicorn_server
from tests.authority import Authority


class Transport:
    """A transport that has so many bytes to send each time it is asked."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = list(sizes)
        self.ended: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]

    def is_closing(self) -> bool:
        return bool(self.ended)

    def abort(self) -> None:
        self.ended.append("aborted")

    def close(self) -> None:
        self.ended.append("closed")


class Http:
    """The state of HTTP on a connection, which is told that it ends."""

    def send(self, event: object) -> None:
        pass


class Flow:
    """Whether its application may write."""

    def resume_writing(self) -> None:
        pass


def connection_of(transport: Transport) -> Any:
    made: Any = Connection.__new__(Connection)
    made.transport, made.loop, made.conn = transport, asyncio.get_running_loop(), Http()
    made.scheme, made.flow = "http", Flow()
    return made


async def test_a_reader_that_reads_slowly_is_waited_for_and_one_that_stops_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.01)
    transport = Transport(100_000, 90_000, 90_000, 80_000)  # each size is looked at twice but the first
    connection = connection_of(transport)
    connection._expect_reader()
    while not transport.ended:
        await asyncio.sleep(0.01)
    assert transport.ended == ["aborted"]
    assert transport._sizes == [80_000]


@pytest.mark.parametrize(("unread", "end"), [(0, "closed"), (10, "aborted")])
async def test_an_idle_connection_is_closed_and_one_with_an_unread_answer_does_not_wait_for_that(
    unread: int, end: str
) -> None:
    transport = Transport(unread)
    connection_of(transport).timeout_keep_alive_handler()
    assert transport.ended == [end]


async def test_a_connection_that_ends_waits_for_its_reader_also_once_little_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.01)
    transport = Transport(100_000, 10_000)
    connection = connection_of(transport)
    connection._expect_reader()
    connection.eof_received()
    connection.resume_writing()
    while not transport.ended:
        await asyncio.sleep(0.01)
    assert transport.ended == ["aborted"]


ANSWER = b"x" * 60_000
"""Less than what makes a transport say that it has much to send."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"60000")]})
    await send({"type": "http.response.body", "body": ANSWER})


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None, most: int = 100) -> AsyncIterator[tuple[UvicornServer, int]]:
    """A server whose system keeps little for clients that do not read, and its port."""
    server = uvicorn_server(application, tls, most)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        task = asyncio.create_task(server.serve([listening]))
        yield server, listening.getsockname()[1]
        server.should_exit = True
        await task


def asked(port: int, head: bytes, tls: ssl.SSLContext | None) -> socket.socket:
    """A connection that has asked, and reads nothing but what TLS needs."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    if tls is not None:
        sock = tls.wrap_socket(sock, server_hostname="127.0.0.1")
    sock.sendall(head)
    return sock


CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEEP = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("head", "ends"),
    [(CLOSE, False), (b"GET / HTTP/1.0\r\n\r\n", False), (KEEP, True), (CLOSE, True), (KEEP + b"?\r\n\r\n", False)],
    ids=["close", "1.0", "half-closed", "close, then half-closed", "nonsense after it"],
)
async def test_a_connection_that_ends_with_something_unread_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: bytes, ends: bool, encrypted: bool
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.2)
    of_server = of_client = None
    if encrypted:
        authority = Authority(tmp_path)
        of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        of_server.load_cert_chain(*authority.issue("server", "127.0.0.1"))
        of_client = ssl.create_default_context(cafile=str(authority.file))
    async with serving(of_server) as (server, port):
        sock = await asyncio.to_thread(asked, port, head, of_client)
        with contextlib.closing(sock):
            while not server.server_state.total_requests:
                await asyncio.sleep(0.01)
            if ends:
                socket.socket.shutdown(sock, socket.SHUT_WR)
            while server.server_state.connections:
                await asyncio.sleep(0.01)


async def test_a_connection_too_many_is_ended_and_the_others_are_served() -> None:
    async with serving(None, most=2) as (_, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for reader, writer in kept:
            writer.write(CLOSE)
            assert (await reader.read()).endswith(ANSWER)
            writer.close()
