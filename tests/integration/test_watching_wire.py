"""Lines that are watched, through a real server and both halves of the SDK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest

from charloom.bundle import Bundle
from charloom.client import AsyncClient, Client, Conflict, InvalidArgument, InvalidValue, Verdict
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import watching_pb2, watching_pb2_grpc
from tests.integration.conftest import refused

USUAL = [("a", "the class is here"), ("b", "the function is not")]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def alike(verdicts: list[Verdict]) -> list[Verdict]:
    """Without what depends on the lines of other tests."""
    return [replace(one, threshold=None, own_threshold=False, alert=False, drifting=False) for one in verdicts]


async def test_both_halves_of_the_sdk_judge_alike(server: Server, client: Client) -> None:
    with client.watch("blocking", rate=0.2, warm_up=5, characters=True) as watch:
        found = [verdict for _ in range(6) for verdict in watch.read(USUAL)] + watch.read([("a", "€€€€€€")])
    async with (
        AsyncClient(server.address) as other,
        other.watch("asyncio", rate=0.2, warm_up=5, characters=True) as again,
    ):
        same = [verdict for _ in range(6) for verdict in await again.read(USUAL)] + await again.read([("a", "€€€€€€")])
    assert same == found
    assert [(one.alert, one.own_threshold, one.lines) for one in found[-1:]] == [(True, True, 7)]
    assert found[0].threshold is None
    assert (found[0].source, found[0].text, len(found[0].characters)) == ("a", "the class is here", 17)
    assert sum(found[0].characters) < found[0].nats < sum(found[0].characters) + 20


def test_the_next_call_goes_on_where_the_last_one_was(client: Client) -> None:
    with client.watch("whole") as watch:
        whole = watch.read(USUAL * 2)
    parts = []
    for _ in range(2):
        with client.watch("parts") as watch:
            parts += watch.read(USUAL)
    assert alike(parts) == alike(whole)


def test_sources_survive_a_restart_with_the_store(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    settings = ServerSettings(grace_seconds=0, store=f"sqlite:{tmp_path / 'sessions.db'}")
    found = []
    for _ in range(2):
        with (
            running_server([(bundle, decoder)], settings) as server,
            Client(server.address) as client,
            client.watch("logs") as watch,
        ):
            found += watch.read(USUAL)
    assert [one.lines for one in found] == [1, 1, 2, 2]


def test_no_line_is_refused(client: Client) -> None:
    lines: list[tuple[str, str | bytes]] = [
        ("a name of any kind, € too", "x" * 10_000_000),
        ("a", b"y" * 10_000_000),
        ("", ""),
        ("a", b"\x00\xff\xfe\x80 binary \xc3"),
        ("a", "caf\xe9".encode("latin-1")),
        ("a", "half of a pair \ud83d"),
        ("a", "two\nlines"),
    ]
    with client.watch("odd", characters=True) as watch:
        verdicts = watch.read(lines)
    assert [one.cut for one in verdicts] == [True, True, *[False] * 5]
    assert verdicts[4].text == "caf\ufffd"
    assert verdicts[5].text == "half of a pair ?"
    assert all(len(one.characters) == len(one.text) for one in verdicts)


def test_many_lines_are_sent_in_as_many_messages_as_they_need(client: Client) -> None:
    with client.watch("many") as watch:
        verdicts = watch.read([(f"s{number % 7}", "all is well " * 4) for number in range(1500)])
    assert max(one.lines for one in verdicts) == 215


def test_one_call_watches_under_a_name(client: Client) -> None:
    with client.watch("taken") as first:
        first.read(USUAL)
        with pytest.raises(Conflict), client.watch("taken") as second:
            second.read(USUAL)
        first.read(USUAL)


def test_what_cannot_be_watched_is_refused(client: Client, channel: grpc.Channel) -> None:
    for arguments, field in (
        ({"name": "a/b"}, "name"),
        ({"name": "a", "rate": 0.9}, "rate"),
        ({"name": "a", "silent_after": 0.5}, "silent_after"),
    ):
        with pytest.raises(InvalidArgument, match=field), client.watch(**arguments) as watch:  # type: ignore[arg-type]
            watch.read(USUAL)
    with pytest.raises(InvalidValue, match="mask"):
        client.watch("a", mask="words")  # type: ignore[arg-type]
    with client.watch("pairs") as watch, pytest.raises(InvalidValue, match=r"lines\[1\]"):
        watch.read([("a", "b"), ("a", 5)])  # type: ignore[list-item]
    stub = watching_pb2_grpc.WatchingServiceStub(channel)
    start = watching_pb2.WatchRequest(start=watching_pb2.WatchStart(name="raw", mask=9))  # type: ignore[arg-type]
    assert refused(lambda: list(stub.Watch(iter([start]))))[2].keys() == {"mask"}
    assert refused(lambda: list(stub.Watch(iter([watching_pb2.WatchRequest()]))))[2].keys() == {"start"}
    start.start.mask = watching_pb2.NUMBER_MASK_NONE
    assert refused(lambda: list(stub.Watch(iter([start, start]))))[2].keys() == {"lines"}


async def test_silent_sources_are_told_by_both_halves_of_the_sdk(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("charloom.engine.calls.watching.monotonic", lambda: now)
    before = server.engine.totals.silent_sources
    with client.watch("silent", silent_after=1) as watch:
        watch.read([("a", "one"), ("b", "one")])
        assert watch.silent() == []
        now += 1
        watch.read([("b", "two")])
        assert watch.silent() == ["a"]
        assert watch.silent() == []
    async with AsyncClient(server.address) as other, other.watch("many", silent_after=1) as again:
        sources = [f"s{number}" for number in range(1030)]
        await again.read([(source, "up") for source in sources])
        now += 1
        assert await again.silent() == sources
    assert server.engine.totals.silent_sources - before == 1031
    with client.watch("unasked") as watch:
        assert watch.silent() == []


def test_lines_and_alerts_are_counted(bundle: Bundle, decoder: Decoder) -> None:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, metrics_port=0)) as server:
        with Client(server.address) as client, client.watch("logs", rate=0.5, warm_up=1) as watch:
            verdicts = watch.read(USUAL * 5 + [("a", "€€€€€€")])
        alerts = sum(one.alert for one in verdicts)
        assert alerts
        told = httpx.get(f"http://{server.metrics_address}/metrics", timeout=60).text
        assert "charloom_watched_lines_total 11.0" in told
        assert f"charloom_watch_alerts_total {float(alerts)}" in told
        assert "charloom_watch_silent_sources_total 0.0" in told
