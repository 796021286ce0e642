"""What one client does must not take the service from another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.integration.conftest import eventually

LONG = generation_pb2.GenerateRequest(options=generation_pb2.GenerationOptions(max_tokens=65_536))
SHORT = generation_pb2.CompleteRequest(options=generation_pb2.GenerationOptions(max_tokens=50))
OWN = ("grpc.use_local_subchannel_pool", 1)
NARROW = (OWN, ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
"""Little is buffered on the way, so that the server soon notices that nobody reads."""


@contextmanager
def connection(address: str, options: Sequence[tuple[str, int]] = (OWN,)) -> Iterator[Any]:
    """The stub of a client with a connection of its own."""
    with grpc.insecure_channel(address, options=options) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


def outcome(call: Any) -> str:
    """How a call that returns a future ended; a refusal says when to come back."""
    try:
        call.result()
    except grpc.RpcError as problem:
        name = str(problem.code().name)  # type: ignore[attr-defined]
        if name == "RESOURCE_EXHAUSTED":
            status, retry = rpc_status.from_call(problem), error_details_pb2.RetryInfo()
            assert status is not None
            assert any(detail.Unpack(retry) and retry.retry_delay.ToMilliseconds() > 0 for detail in status.details)
        return name
    return "OK"


def test_a_client_that_opens_many_streams_and_reads_none_takes_nothing_from_another(
    bundle: Bundle, decoder: Decoder
) -> None:
    settings = ServerSettings(max_rows=4, max_waiting=8, workers=1, grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server:
        loom = server.engine.models[0].loom
        with connection(server.address, NARROW) as greedy, connection(server.address) as polite:
            streams = [greedy.Generate(LONG) for _ in range(200)]
            eventually(lambda: loom.live >= 4)
            for _ in range(20):
                assert outcome(polite.Complete.future(SHORT, timeout=60)) == "OK"
            for stream in streams:
                stream.cancel()
        eventually(lambda: (loom.live, loom.waiting) == (0, 0))


@pytest.mark.parametrize(
    ("settings", "connections", "metadata"),
    [
        ({}, 1, "charloom-tenant"),
        ({"trust_proxy": "127.0.0.1"}, 6, ""),
    ],
    ids=["tenants", "connections"],
)
def test_other_names_and_other_connections_make_nobody_another_caller(
    bundle: Bundle, decoder: Decoder, settings: dict[str, Any], connections: int, metadata: str
) -> None:
    """Were each of them a caller, each would have its part of the places, and the polite one a small one."""
    chosen = ServerSettings(max_rows=4, max_waiting=12, workers=1, grace_seconds=0, **settings)
    with running_server([(bundle, decoder)], chosen) as server, ExitStack() as stack:
        loom = server.engine.models[0].loom
        greedy = [stack.enter_context(connection(server.address)) for _ in range(connections)]
        polite = stack.enter_context(connection(server.address))
        streams = [
            greedy[number % connections].Generate(
                LONG, metadata=((metadata, f"name-{number}"),) if metadata else (("x-forwarded-for", "203.0.113.7"),)
            )
            for number in range(40)
        ]
        eventually(lambda: loom.live == 4 and loom.waiting == 12)
        # Both of its places are beyond those that there are: two callers have two each.
        mine = [polite.Generate(LONG, metadata=(("x-forwarded-for", "203.0.113.8"),)) for _ in range(2)]
        for stream in mine:
            assert next(stream).position > 0
        assert loom.live == 6
        for stream in (*streams, *mine):
            stream.cancel()


def test_of_many_calls_at_once_each_is_answered_or_told_when_to_come_back(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(max_calls=40, grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server, ExitStack() as stack:
        stubs = [stack.enter_context(connection(server.address)) for _ in range(5)]
        healthy: list[int] = []
        over = threading.Event()

        def ask() -> None:
            with grpc.insecure_channel(server.address, options=(OWN,)) as channel:
                while not over.is_set():
                    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                    healthy.append(answer.status)

        asking = threading.Thread(target=ask)
        asking.start()
        calls = [stubs[number % 5].Complete.future(SHORT, timeout=120) for number in range(2000)]
        outcomes = Counter(outcome(call) for call in calls)
        over.set()
        asking.join()
    assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert set(healthy) == {health_pb2.HealthCheckResponse.SERVING}


def test_a_client_lets_calls_wait_that_its_connection_may_not_make_yet(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(max_streams=2, grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server, connection(server.address, NARROW) as stub:
        assert outcome(stub.Complete.future(SHORT, timeout=60)) == "OK"
        streams = [stub.Generate(LONG) for _ in range(2)]
        for stream in streams:
            next(stream)
        assert outcome(stub.Complete.future(SHORT, timeout=1)) == "DEADLINE_EXCEEDED"
        with connection(server.address) as other:
            assert outcome(other.Complete.future(SHORT, timeout=60)) == "OK"
        for stream in streams:
            stream.cancel()
