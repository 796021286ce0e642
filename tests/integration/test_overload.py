"""More than a server can carry: load, readers that do not read, clients that vanish."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.unit.engine.looms import Slow
from tests.waiting import eventually

LONG = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=65_536))


def stub_of(channel: grpc.Channel) -> Any:
    return generation_pb2_grpc.GenerationServiceStub(channel)


def short(number: int) -> generation_pb2.CompleteRequest:
    return generation_pb2.CompleteRequest(options=generation_pb2.GenerationOptions(max_tokens=200, seed=number))


def test_ten_times_the_load_is_refused_at_once_and_what_was_accepted_is_done(bundle: Bundle, decoder: Decoder) -> None:
    """40 clients for a server that takes 4 calls: none fails but by refusal, and no accepted text is lost."""
    settings = ServerSettings(max_rows=1, max_waiting=2, workers=2, grace_seconds=0)
    texts: list[str] = []
    refusals: list[float] = []
    other: list[grpc.StatusCode] = []

    def client(number: int, address: str) -> None:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            for turn in range(15):
                began = time.monotonic()
                try:
                    texts.append(stub_of(channel).Complete(short(number * 100 + turn)).completions[0].text)
                except grpc.RpcError as problem:
                    if problem.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        other.append(problem.code())
                    refusals.append(time.monotonic() - began)
                    status = rpc_status.from_call(problem)
                    retry = error_details_pb2.RetryInfo()
                    assert any(detail.Unpack(retry) for detail in status.details)
                    assert retry.retry_delay.ToMilliseconds() > 0

    with running_server([(bundle, decoder)], settings) as server:
        threads = [threading.Thread(target=client, args=(number, server.address)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loom = server.engine.models[0].loom
        eventually(lambda: (loom.live, loom.waiting) == (0, 0))
    assert other == []
    assert refusals
    assert texts
    assert {len(text) for text in texts} == {200}
    assert len(texts) + len(refusals) == 40 * 15


def test_a_deadline_is_honoured_while_a_call_waits(bundle: Bundle, decoder: Decoder) -> None:
    slow = Slow(decoder, 0.05)  # the call that it waits for takes a minute
    with (
        running_server([(bundle, slow)], ServerSettings(max_rows=1, workers=1, grace_seconds=0)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub, loom = stub_of(channel), server.engine.models[0].loom
        blocking = stub.Generate(LONG)
        next(blocking)
        reading = threading.Thread(target=lambda: _read(blocking))
        reading.start()
        with pytest.raises(grpc.RpcError) as late:
            stub.Complete(short(1), timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
        eventually(lambda: loom.waiting == 0)
        assert loom.live == 1
        blocking.cancel()
        reading.join()


def _read(stream: Any) -> None:
    try:
        for _ in stream:
            pass
    except grpc.RpcError:
        pass


def test_readers_that_never_read_do_not_keep_others_waiting(bundle: Bundle, decoder: Decoder) -> None:
    """Three times as many as the server keeps paused: the longest paused are ended, and everybody else is served."""
    settings = ServerSettings(max_rows=2, max_waiting=4, workers=1, grace_seconds=0)
    # Little is buffered on the way, so that the server soon notices that nobody reads.
    narrow = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    with running_server([(bundle, decoder)], settings) as server:
        loom = server.engine.models[0].loom
        with grpc.insecure_channel(server.address, options=narrow) as channel:
            lazy = []
            for _ in range(12):
                lazy.append(stub_of(channel).Generate(LONG))
                next(lazy[-1])
            eventually(lambda: loom.live == settings.max_waiting and loom.waiting == 0, 60)
            with grpc.insecure_channel(server.address) as other:
                for number in range(5):
                    assert len(stub_of(other).Complete(short(number), timeout=60).completions[0].text) == 200
            with pytest.raises(grpc.RpcError) as stalled:
                list(lazy[0])
            assert stalled.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
            assert "not read" in stalled.value.details()  # type: ignore[attr-defined]
            for stream in lazy:
                stream.cancel()
        eventually(lambda: loom.live == 0)


CLIENT = """
    import sys, grpc
    from charloom.v1 import generation_pb2, generation_pb2_grpc
    channel = grpc.insecure_channel(sys.argv[1])
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    request = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=65_536))
    streams = [stub.Generate(request) for _ in range(100)]
    for stream in streams:
        next(stream)
    print("reading", flush=True)
    while True:
        for stream in streams:
            next(stream)
"""


def test_clients_that_vanish_by_the_hundred_leave_the_batch(bundle: Bundle, decoder: Decoder) -> None:
    """Two processes with a hundred streams each, killed in the middle."""
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0)) as server:
        loom = server.engine.models[0].loom
        command = [sys.executable, "-c", textwrap.dedent(CLIENT), server.address]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "reading\n"
        assert loom.live > 100
        for client in clients:
            client.kill()
        for client in clients:
            client.communicate()
        eventually(lambda: (loom.live, loom.waiting) == (0, 0))
        with grpc.insecure_channel(server.address) as channel:
            assert len(stub_of(channel).Complete(short(1), timeout=60).completions[0].text) == 200
        assert server.engine.sessions.writing == 0
        assert loom.slots == 0
