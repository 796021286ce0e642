"""The clients and the checks of the soak, of overload and of many sessions."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import Metadata

from benchmarks import mixed, retrying, sessions
from benchmarks.processes import Process
from benchmarks.reporting import Budget
from benchmarks.soak import failures, second_half, sessions_left, slope
from charloom.client import Client
from charloom.server.app import Server


def test_the_slope_is_that_of_the_line() -> None:
    assert slope([(x, 3 * x + 5) for x in (0, 1, 2, 5)]) == pytest.approx(3)
    assert slope([(0, 1), (1, 0), (2, 1)]) == pytest.approx(0)
    assert slope([(0, 0), (1, 2), (2, 1)]) == pytest.approx(0.5)


def test_no_line_has_no_slope() -> None:
    assert slope([]) == 0
    assert slope([(1, 7)]) == 0
    assert slope([(1, 7), (1, 9)]) == 0


def test_the_second_half_is_that_of_the_time() -> None:
    assert second_half([(0, 1), (1, 2), (9, 3), (10, 4)]) == [(9, 3), (10, 4)]
    assert second_half([]) == []


FINE: dict[str, Any] = {
    "alive": True,
    "internal": 0,
    "unexpected": {},
    "leaked_sessions": 0,
    "lost_sessions": 0,
    "idle_cpu": 0.01,
    "throughput_after_over_before": 0.95,
    "rss_slope_kib_per_min": 40.0,
}


def test_a_server_that_is_as_it_was_has_no_failures() -> None:
    assert failures(FINE, None) == []
    assert failures(FINE, 50.0) == []
    assert failures({"alive": False}, None) == ["the server died"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("internal", 1, "INTERNAL or UNKNOWN"),
        ("unexpected", {"read: ABORTED": 1}, "otherwise than they should: {'read: ABORTED': 1}"),
        ("leaked_sessions", 1, "nobody left"),
        ("lost_sessions", 1, "are gone"),
        ("idle_cpu", 0.2, "when idle"),
        ("throughput_after_over_before", 0.89, "less than 0.9"),
        ("rss_slope_kib_per_min", 51.0, "more than 50.0 KiB"),
    ],
)
def test_each_requirement_can_fail(name: str, value: object, message: str) -> None:
    (failure,) = failures(FINE | {name: value}, 50.0)
    assert message in failure


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "DEAF_SECONDS", 0.1)


EXPECTED = {
    "OK",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ABORTED",
    "ALREADY_EXISTS",
    "UNIMPLEMENTED",
}


def test_the_clients_of_the_soak_get_what_they_expect(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def going(clients: mixed.Mixed) -> bool:
        now, missing = time.monotonic(), EXPECTED - clients.statuses.keys()
        return now < clients._end or (bool(missing) and now < began + 300)

    began = time.monotonic()
    monkeypatch.setattr(mixed.Mixed, "_going", property(going))
    found = asyncio.run(mixed._main(server.address, 1.5))
    assert found["unexpected"] == {}
    assert found["statuses"].keys() >= EXPECTED
    assert not found["statuses"].keys() & {"INTERNAL", "UNKNOWN"}
    assert found["calls"] == sum(found["statuses"].values())
    assert len(found["sessions"]) == mixed.TALKERS
    assert sessions_left(server.address, set(found["sessions"])) == (0, 0)


def test_sessions_that_nobody_left_and_sessions_that_are_gone_are_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.soak.SETTLING_SECONDS", 0)
    with Client(server.address) as client:
        there = {session.id for session in client.sessions()}
        assert sessions_left(server.address, {*there, "gone", "lost"}) == (0, 2)
        with client.session(id="left"):
            assert sessions_left(server.address, there) == (1, 0)


def test_unexpected_answers_are_told(full_server: Server) -> None:
    """A server that keeps one session disappoints clients that all want one."""
    found = asyncio.run(mixed._main(full_server.address, 1))
    assert any(what.startswith("create: RESOURCE_EXHAUSTED") for what in found["unexpected"])


def test_clients_stop_when_nobody_is_there(nobody: str) -> None:
    found = asyncio.run(asyncio.wait_for(mixed._main(nobody, 600), 60))
    assert any("UNAVAILABLE" in what for what in found["unexpected"])


def refusal(**delay: int) -> grpc.aio.AioRpcError:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(**delay)))
    status = status_pb2.Status(details=[packed] if delay else [])
    trailer = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, Metadata(), trailer)


def test_the_delay_is_what_the_server_says() -> None:
    assert retrying.retry_delay(refusal(seconds=2, nanos=500_000_000)) == 2.5
    assert retrying.retry_delay(refusal()) == retrying.USUAL_DELAY


@pytest.mark.parametrize("rude", [False, True])
def test_refused_clients_come_again(full_server: Server, rude: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "STARTING_SECONDS", 0.1)
    clients = 20
    found = asyncio.run(retrying.figures(full_server.address, clients, 2.5, rude=rude))
    assert found["calls"] > 0
    assert found["chars_per_s"] > 0
    assert found["refusal_ms"]["p50"] > 0
    # Told to wait a second, a polite client comes at most every second.
    assert (found["refusals"] > 4 * clients) is rude


def test_clients_that_fail_are_an_error(nobody: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        asyncio.run(retrying.figures(nobody, 2, 30, rude=False))


def test_sessions_are_made_used_and_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WARM_SESSIONS", 5)
    monkeypatch.setattr(sessions, "SETTLED_SECONDS", 0.01)
    with Client(server.address) as client:
        before = {session.id for session in client.sessions()}
        found = asyncio.run(sessions.fill(Process(server.address, os.getpid()), [30, 10], Budget(10)))
        assert list(found) == ["10", "30"]
        assert all({"bytes_per_session", "ratio"} == each.keys() for each in found.values())
        made = [session for session in client.sessions() if session.id not in before]
    assert [session.id for session in made] == [f"session-{number:07}" for number in range(5, 35)]
    assert {session.position for session in made} == {1}


def test_counts_that_the_time_does_not_reach_are_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sessions, "WARM_SESSIONS", 0)
    monkeypatch.setattr(sessions, "SETTLED_SECONDS", 0.01)
    found = asyncio.run(
        sessions.fill(Process(server.address, os.getpid()), [10, 30], Budget(1, iter([0, 90]).__next__))
    )
    assert found == {}
    assert "10 sessions: broken off, the time is over" in capsys.readouterr().err
