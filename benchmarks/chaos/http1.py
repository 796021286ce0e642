"""Attacks at the server's HTTP port, by what HTTP/1.1 allows, or nearly allows, a client to send."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading

from benchmarks.chaos.attack import Attack, Did, by_threads
from benchmarks.processes import HOST, free_ports

CONNECTIONS = 200
"""Of each thread, with a body that comes slowly."""
IDLE_CONNECTIONS = 1_000
"""Of each thread."""
PATIENCE_SECONDS = 5.0
(PORT,) = free_ports(1)
FLAGS = ("--http-port", str(PORT))


def connected() -> socket.socket:
    """A connection to the HTTP port."""
    return socket.create_connection((HOST, PORT), timeout=PATIENCE_SECONDS)


def head(*fields: str) -> bytes:
    """The beginning of a request for a completion."""
    lines = ["POST /v1/completions HTTP/1.1", "host: localhost", "content-type: application/json", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def request(max_tokens: int) -> bytes:
    """A request for a stream of a text."""
    asked = {"model": "shakespeare", "prompt": "The ", "max_tokens": max_tokens, "stream": True}
    body = json.dumps(asked).encode()
    return head(f"content-length: {len(body)}") + body


def slow_bodies(_: str, over: threading.Event, did: Did) -> None:
    """Bodies that come at a byte each half second."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _number in range(CONNECTIONS):
            connections.append(stack.enter_context(connected()))
            connections[-1].sendall(head("content-length: 1000"))
            did["connections"] += 1
        while not over.wait(0.5):
            for connection in connections:
                connection.sendall(b" ")
                did["bytes"] += 1


def endless_bodies(_: str, over: threading.Event, did: Did) -> None:
    """Chunked bodies that do not end."""
    with connected() as connection:
        connection.sendall(head("transfer-encoding: chunked"))
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        while not over.is_set():
            connection.sendall(chunk)
            did["chunks of 64 KiB"] += 1


def resets(_: str, over: threading.Event, did: Did) -> None:
    """Streams whose connection is reset once the text has begun."""
    while not over.is_set():
        connection = connected()
        connection.sendall(request(4000))
        with contextlib.suppress(OSError):
            connection.recv(1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        did["streams"] += 1


def slow_readers(_: str, over: threading.Event, did: Did) -> None:
    """Long texts of which nothing is read."""
    with contextlib.ExitStack() as stack:
        for _number in range(CONNECTIONS):
            connection = stack.enter_context(connected())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request(65_000))
            did["streams"] += 1
        over.wait()


def idle_connections(_: str, over: threading.Event, did: Did) -> None:
    """Connections over which nothing is said, or half a line."""
    with contextlib.ExitStack() as stack:
        for number in range(IDLE_CONNECTIONS):
            if over.is_set():
                return
            connection = stack.enter_context(connected())
            if number % 2:
                connection.sendall(b"POST /v1/compl")
            did["connections"] += 1
        over.wait()


ATTACKS: tuple[Attack, ...] = (
    by_threads(f"HTTP: {4 * CONNECTIONS} bodies that come slowly", slow_bodies, *FLAGS),
    by_threads("HTTP: chunked bodies without end", endless_bodies, *FLAGS),
    by_threads("HTTP: streams reset in the middle", resets, *FLAGS),
    by_threads(f"HTTP: {4 * CONNECTIONS} texts that nobody reads", slow_readers, *FLAGS),
    by_threads(f"HTTP: {4 * IDLE_CONNECTIONS:,} idle connections", idle_connections, *FLAGS),
)
