"""What one client does must not take the service from another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.caller import Caller, set_caller
from charloom.server.process_memory import memory_in_use
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import generation_pb2, generation_pb2_grpc
from tests.integration.conftest import health_stub
from tests.waiting import eventually

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


@pytest.mark.parametrize("reads", [True, False])
def test_a_stream_of_many_calls_takes_nothing_from_another_client(
    bundle: Bundle, decoder: Decoder, reads: bool
) -> None:
    settings = ServerSettings(max_rows=4, workers=1, grace_seconds=0, trust_proxy="127.0.0.1")
    calls = [generation_pb2.GenerateCall(number=number, request=LONG) for number in range(300)]
    one, other = ((("x-forwarded-for", address),) for address in ("203.0.113.7", "203.0.113.8"))
    with running_server([(bundle, decoder)], settings) as server:
        loom = server.engine.models[0].loom
        with connection(server.address, NARROW) as greedy, connection(server.address) as polite:
            over = threading.Event()

            def requests() -> Iterator[generation_pb2.GenerateManyRequest]:
                yield generation_pb2.GenerateManyRequest(calls=calls)
                over.wait()

            stream = greedy.GenerateMany(requests(), metadata=one)

            def read() -> None:
                with suppress(grpc.RpcError):
                    for _ in stream:
                        pass

            reading = threading.Thread(target=read if reads else lambda: None)
            reading.start()
            eventually(lambda: loom.live >= 4)
            for _ in range(20):
                assert outcome(polite.Complete.future(SHORT, metadata=other, timeout=60)) == "OK"
            stream.cancel()
            over.set()
            reading.join()
        eventually(lambda: (loom.live, loom.waiting) == (0, 0))


def test_other_connections_for_the_same_client_make_nobody_another_caller(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Caller] = []

    def noted(caller: Caller) -> None:
        seen.append(caller)
        set_caller(caller)

    monkeypatch.setattr("charloom.server.admission.set_caller", noted)
    settings = ServerSettings(grace_seconds=0, trust_proxy="127.0.0.1")
    with running_server([(bundle, decoder)], settings) as server, ExitStack() as stack:
        for address, count in (("203.0.113.7", 6), ("203.0.113.8", 1)):
            for _ in range(count):
                stub = stack.enter_context(connection(server.address))
                said = (("x-forwarded-for", address),)
                assert outcome(stub.Complete.future(SHORT, metadata=said, timeout=60)) == "OK"
    assert [caller.share.name for caller in seen] == ["203.0.113.7"] * 6 + ["203.0.113.8"]


def test_a_client_that_names_one_tenant_after_another_is_none_of_them(bundle: Bundle, decoder: Decoder) -> None:
    with (
        running_server([(bundle, decoder)], ServerSettings(grace_seconds=0)) as server,
        connection(server.address) as stub,
    ):
        for number in range(5):
            named = (("charloom-tenant", f"tenant-{number}"),)
            assert outcome(stub.Complete.future(SHORT, metadata=named, timeout=60)) == "PERMISSION_DENIED"


def test_of_many_calls_at_once_each_is_answered_or_told_when_to_come_back(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(max_calls=4, grace_seconds=0)
    with running_server([(bundle, decoder)], settings) as server, ExitStack() as stack:
        stubs = [stack.enter_context(connection(server.address, NARROW)) for _ in range(5)]
        healthy: list[int] = []
        over = threading.Event()

        def ask() -> None:
            with grpc.insecure_channel(server.address, options=(OWN,)) as channel:
                while not over.is_set():
                    answer = health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
                    healthy.append(answer.status)

        asking = threading.Thread(target=ask)
        asking.start()
        running = [stubs[0].Generate(LONG) for _ in range(4)]  # nobody reads them to their end
        for stream in running:
            next(stream)
        calls = [stubs[number % 5].Complete.future(SHORT, timeout=120) for number in range(2000)]
        outcomes = Counter(outcome(call) for call in calls)
        over.set()
        asking.join()
        for stream in running:
            stream.cancel()
        eventually(lambda: outcome(stubs[0].Complete.future(SHORT, timeout=60)) == "OK")
    assert set(outcomes) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert outcomes["RESOURCE_EXHAUSTED"] >= 400, "those of the connection that has all calls already"
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


def test_what_does_not_fit_in_memory_is_refused_before_it_begins(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(memory_bytes=2**27 + memory_in_use(), grace_seconds=0)
    options = generation_pb2.GenerationOptions(max_tokens=65_000, logprobs=True, top_logprobs=20, n=2)
    with running_server([(bundle, decoder)], settings) as server, connection(server.address) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            stub.Complete(generation_pb2.CompleteRequest(options=options), timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert "MiB" in refused.value.details()  # type: ignore[attr-defined]
        options.n, options.top_logprobs = 1, 1
        calls = [stub.Complete.future(generation_pb2.CompleteRequest(options=options), timeout=60) for _ in range(20)]
        # The first of them fit; each of the others is told when to come back, and none is begun.
        eventually(lambda: sum(call.done() for call in calls) >= 10)
        outcomes = Counter(outcome(call) for call in calls if call.done())
        assert set(outcomes) <= {"OK", "RESOURCE_EXHAUSTED"}
        assert outcomes["RESOURCE_EXHAUSTED"] >= 10
        for call in calls:
            call.cancel()
        eventually(lambda: server.engine.budget.held == 0)
        assert outcome(stub.Complete.future(SHORT, timeout=60)) == "OK"
