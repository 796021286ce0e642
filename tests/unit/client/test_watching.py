"""Watches that break off, in both halves of the SDK and in `charloom watch`."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from charloom.cli.main import main
from charloom.cli.sessions.lasting_watch import LastingWatch, Stopped
from charloom.client import AsyncClient, Client, Overloaded, Unavailable
from tests.unit.client.conftest import Run
from tests.unit.client.fake_answers import Answer, abort, error_info, failing, in_turn, retry_info, watch
from tests.unit.client.fake_server import FakeServer

DRAINING = (grpc.StatusCode.UNAVAILABLE, "the server is stopping", error_info("DRAINING"))
IDLE = (grpc.StatusCode.DEADLINE_EXCEEDED, "the call had waited", error_info("CLIENT_IDLE"))
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "all rows are taken", error_info("OVERLOADED"))
LOOKS = "charloom.cli.sessions.lasting_watch.IDLE"


def breaking(*problem: Any) -> Answer:
    """Answers one message of lines, and ends with this problem."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield from watch(itertools.islice(requests, 2), context)
        abort(context, *problem)

    return answer


def watches(server: FakeServer) -> int:
    return sum(request.HasField("start") for request in server.asked("Watch"))


def read_lines(server: FakeServer) -> list[str]:
    return [line.text for request in server.asked("Watch") for line in request.lines.lines]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "some.log"


async def test_what_was_answered_before_a_break_is_told(server: FakeServer, either: AsyncClient) -> None:
    server.answers["Watch"] = breaking(*DRAINING)
    coming = either.watch("web").read_by_message([("a", "A" * 60)] * 2500)
    assert [one.alert for one in await anext(coming)] == [True] * 819
    with pytest.raises(Unavailable):
        await anext(coming)
    assert len(read_lines(server)) == 819


async def test_all_verdicts_are_in_the_order_of_their_lines(either: AsyncClient) -> None:
    async with either.watch("web") as watching:
        lines = [("a", f"{number}") for number in range(2500)]
        assert [one.text for one in await watching.read(lines)] == [text for _, text in lines]


def test_a_server_that_is_restarted_while_there_are_no_lines_is_not_missed(
    server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["Watch"] = in_turn(breaking(*DRAINING), watch)
    monkeypatch.setattr(LOOKS, -1.0)
    with LastingWatch(client, {"name": "web", "silent_after": None}, lambda: False, patient=True) as watching:
        for text in (b"one", b"two"):
            assert len(watching.read([("app", text)])) == 1
            watching.rest()
    assert read_lines(server) == ["one", "two"]


def test_a_full_server_is_waited_for_as_long_as_it_says(
    server: FakeServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Watch"] = in_turn(failing(*FULL, retry_info(1.25)), watch)
    with LastingWatch(client, {"name": "web", "silent_after": None}, lambda: False, patient=True) as watching:
        assert len(watching.read([("app", b"one")])) == 1
    assert "trying again in 1.25 s" in capsys.readouterr().err


@pytest.mark.parametrize(("patient", "told"), [(False, [retry_info(9.0)]), (True, [])])
def test_a_refusal_ends_a_watch_that_waits_for_nothing_or_where_no_time_helps(
    server: FakeServer, client: Client, patient: bool, told: list[Any]
) -> None:
    server.answers["Watch"] = failing(*FULL, *told)
    options = {"name": "web", "silent_after": None}
    with LastingWatch(client, options, lambda: False, patient=patient) as watching, pytest.raises(Overloaded):
        watching.read([("app", b"one")])


@pytest.mark.parametrize("looks", [0, 1])
def test_one_that_is_stopped_while_its_server_is_away_asks_no_more(
    server: FakeServer, client: Client, looks: int
) -> None:
    """At once, or in the pause before the next try."""
    server.answers["Watch"] = in_turn(failing(*FULL, retry_info(3600.0)), watch)
    stopping = itertools.chain([False] * looks, itertools.repeat(True)).__next__
    with LastingWatch(client, {"name": "web", "silent_after": None}, stopping, patient=True) as watching:
        with pytest.raises(Stopped):
            watching.read([("app", b"one")])
        assert server.calls == []


@pytest.mark.parametrize(
    ("text", "options", "summary"),
    [("A\n", ["--silent-after", "5"], "1 line, 1 alert, 0 silences"), ("A\none\n", [], "1 line, 1 alert")],
)
def test_a_command_that_is_stopped_so_ends_in_order(
    server: FakeServer,
    run: Run,
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    options: list[str],
    summary: str,
) -> None:
    """Be it asked for lines or for silent sources; the next one goes on where it was."""

    def stopping(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield from watch(itertools.islice(requests, 2), context)
        os.kill(os.getpid(), signal.SIGTERM)
        abort(context, *DRAINING)

    server.answers["Watch"] = in_turn(stopping, watch)
    monkeypatch.setattr("charloom.cli.sessions.watch.BATCH", 1)
    log.write_text(text)
    kept = ["--position", str(tmp_path / "kept")]
    assert run("watch", str(log), "--follow", *kept, *options) == 3
    assert capsys.readouterr().err.splitlines()[-1] == summary
    assert run("watch", str(log), *kept) == 0
    assert read_lines(server) == text.split()


def test_a_watch_that_breaks_off_behind_its_last_line_has_its_summary(
    server: FakeServer, run: Run, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Watch"] = breaking(*DRAINING)
    log.write_text("A\n")
    assert run("watch", str(log)) == 3
    assert capsys.readouterr().err == "1 line, 1 alert\n"


def test_a_watch_that_a_server_ended_as_no_line_came_goes_on(
    server: FakeServer, run: Run, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["Watch"] = breaking(*IDLE)
    monkeypatch.setattr("charloom.cli.sessions.watch.BATCH", 1)
    log.write_text("one\ntwo\nthree\n")
    assert run("watch", str(log)) == 0
    assert capsys.readouterr().err == "3 lines, 0 alerts\n"
    assert (read_lines(server), watches(server)) == (["one", "two", "three"], 3)


def test_one_that_is_ended_so_before_its_first_answer_is_an_error(
    server: FakeServer, run: Run, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["Watch"] = failing(*IDLE)
    log.write_text("one\n")
    assert run("watch", str(log)) == 1
    assert "the call had waited" in capsys.readouterr().err


def test_while_nothing_comes_to_stdin_there_is_no_watch(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def noting(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield from watch(requests, context)
        over.set()

    def write() -> None:
        with os.fdopen(writing, "w") as sink:
            print("one", file=sink, flush=True)
            over.wait(60)
            print("two", file=sink)

    server.answers["Watch"] = noting
    monkeypatch.setattr(LOOKS, -1.0)
    reading, writing = os.pipe()
    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading) as source:
        monkeypatch.setattr("sys.stdin", source)
        assert main(["watch", "-", "--target", server.target]) == 0
    writer.join()
    assert (read_lines(server), watches(server)) == (["one", "two"], 2)


def test_lines_that_were_answered_before_a_break_are_told_and_never_sent_again(
    server: FakeServer, run: Run, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a block of 64 KiB that makes two messages, the second one is not answered."""
    server.answers["Watch"] = in_turn(breaking(*DRAINING), watch)
    texts = [f"{number:0400}" for number in range(256)]
    log.write_text("".join(f"{text}\n" for text in texts))
    told = []
    for status in (1, 0):
        assert run("watch", str(log), "--all", "--position", str(tmp_path / "kept")) == status
        told.append([line.rpartition(" ")[2].strip("»«") for line in capsys.readouterr().out.splitlines()])
    assert (len(told[0]), told[0] + told[1]) == (122, texts)
    assert read_lines(server) == texts
