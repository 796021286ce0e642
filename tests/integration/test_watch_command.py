"""`charloom watch` against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from charloom.cli.main import main
from charloom.cli.sessions.watch import FOUND_ALERTS, marked
from charloom.cli.sessions.webhook import TRIES, Webhook
from charloom.server.app import Server
from tests.waiting import eventually

USUAL = "the class is here\n" * 20
STRANGE = "€€€€€€€€ \x1b[2J\n"
QUICK = ["--rate", "0.1", "--warm-up", "10"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "some.log"


class Hook:
    """An address that takes alerts, after as many failures as it is told."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.failures: list[int] = []
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked += 1
                status = outer.failures.pop(0) if outer.failures else 200
                if status == 200:
                    outer.taken += json.loads(body)["alerts"]
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def watched(server: Server, *arguments: str) -> int:
    return main(["watch", "--target", server.address, *QUICK, *arguments])


def test_alerts_are_printed_posted_and_the_exit_status(
    server: Server, log: Path, hook: Hook, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(USUAL + STRANGE)
    assert watched(server, str(log), "--name", "printed", "--webhook", hook.url) == FOUND_ALERTS
    out, err = capsys.readouterr()
    assert out.startswith("! ")
    assert "some.log: »€€€€€€€€" in out
    assert "\x1b" not in out
    assert err == "21 lines, 1 alert\n"
    assert [(alert["text"], alert["alert"]) for alert in hook.taken] == [(STRANGE.rstrip("\n"), True)]


def test_nothing_unusual_is_no_alert(server: Server, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(USUAL)
    assert watched(server, str(log), "--name", "usual", "--json", "--all") == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fact["alert"] for fact in facts] == [False] * 20
    assert len({fact["id"] for fact in facts}) == 20


@pytest.mark.parametrize(("given", "kept"), [([], 86_400), (["--time-to-live", "600"], 600)])
def test_what_is_known_of_a_source_is_kept_over_night(
    server: Server, log: Path, capsys: pytest.CaptureFixture[str], given: list[str], kept: int
) -> None:
    log.write_text(USUAL)
    watched(server, str(log), "--name", f"kept{kept}", *given)
    asked = ["--target", server.address]
    capsys.readouterr()
    assert main(["sessions", "list", *asked, "--json"]) == 0
    mine = [one for one in json.loads(capsys.readouterr().out) if one["id"].startswith(f"watch.kept{kept}")]
    assert mine
    assert {one["time_to_live"] for one in mine} == {kept}
    assert main(["sessions", "list", *asked]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(f"watch.kept{kept}")]
    assert {row[-1] for row in rows} == {"-"}, "it is a copy of no session"


def test_a_log_too_short_to_be_judged_is_said_to_be(
    server: Server, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text("one line\n")
    assert watched(server, str(log), "--name", "short", "--rate", "0.001") == 0
    told = "1 line, 0 alerts; none was judged, for a threshold takes 1,000 lines before (--rate, --warm-up)\n"
    assert capsys.readouterr().err == told


def test_fields_of_a_line_are_its_source_or_left_out(
    server: Server, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text("12:00 web one two\n12:01 db  three\n12:02\n")
    assert (
        watched(server, str(log), "--name", "fields", "--source-field", "2", "--skip-fields", "2", "--json", "--all")
        == 0
    )
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(fact["source"], fact["text"]) for fact in facts] == [("web", "one two"), ("db", "three"), ("some.log", "")]


def test_binary_lines_and_lines_of_ten_megabytes_are_read(
    server: Server, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"x" * 10_000_000 + b"\n" + bytes(range(256)) + b"\nno line break at the end")
    assert watched(server, str(log), "--name", "binary", "--json", "--all") in (0, FOUND_ALERTS)
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fact["cut"] for fact in facts] == [True, False, False, False]
    assert facts[-1]["text"] == "no line break at the end"


def test_a_position_goes_on_and_tells_nothing_twice(
    server: Server, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for number in range(3):
        with log.open("a") as file:
            file.write(f"line {number}\n")
        watched(server, str(log), "--name", "position", "--position", str(tmp_path / "kept"), "--json", "--all")
        told += [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert told == ["line 0", "line 1", "line 2"]


def test_a_file_that_is_not_there_is_told(server: Server, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watched(server, str(log)) == 1
    assert "there is no file" in capsys.readouterr().err


def test_a_position_that_cannot_be_kept_is_refused_before_a_line_is_told(
    server: Server, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(USUAL)
    kept = tmp_path / "missing" / "position"
    assert watched(server, str(log), "--name", "unkept", "--all", "--position", str(kept)) == 1
    out, err = capsys.readouterr()
    assert (out, f"--position {kept} cannot be written: No such file or directory" in err) == ("", True)


def test_a_file_whose_name_is_not_utf_8_takes_a_source(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.log"))
    log.write_text(USUAL)
    assert watched(server, str(log)) == 1
    assert r"the name caf\udce9.log is not UTF-8; give --source NAME" in capsys.readouterr().err
    assert watched(server, str(log), "--source", "cafe") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-", "--follow"], "stdin has no position and is read to its end"),
        (["-", "--position", "x"], "stdin has no position and is read to its end"),
        (["x", "--skip-fields", "-1"], "--skip-fields from 0"),
        (["x", "--source-field", "0"], "--source-field counts from 1"),
        (["x", "--position", "."], "--position . is a directory; give a file"),
        (["x", "--name", ""], "--name and --source are not empty; give a name, or leave the flag out"),
        (["x", "--source", ""], "--name and --source are not empty; give a name, or leave the flag out"),
        (["x", "--silent-after", "60"], "a file that is not followed has no silence"),
        (["-", "--silent-after", "nan"], "--silent-after is from 1 to 2592000 seconds"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    server: Server, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert watched(server, *arguments) == 1
    assert said in capsys.readouterr().err


def test_a_growing_file_is_followed_over_rotation_truncation_and_restarts(
    server: Server, log: Path, tmp_path: Path
) -> None:
    """Nothing lost, nothing told twice, whatever happens to the file, with two restarts in the middle."""
    output = tmp_path / "told"
    command = [sys.executable, "-m", "charloom.cli.main", "watch", str(log), "--follow", "--target", server.address]
    command += ["--position", str(tmp_path / "kept"), "--json", "--all", "--name", "growing"]
    expected: list[str] = []

    def told() -> list[str]:
        whole = output.read_text().rpartition("\n")[0]
        return [json.loads(line)["text"] for line in whole.splitlines()]

    def add(count: int, mode: str = "a") -> None:
        texts = [f"line {len(expected) + number}" for number in range(count)]
        with log.open(mode) as file:
            for text in texts:
                file.write(text[:3])
                file.flush()
                file.write(text[3:] + "\n")
        expected.extend(texts)

    add(5)
    for turn in range(3):
        with output.open("a") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.DEVNULL) as process:
            try:
                eventually(lambda: told() == expected)
                add(20)
                eventually(lambda: told() == expected)
                log.rename(log.with_name(f"some.log.{turn}"))
                add(10)
                eventually(lambda: told() == expected)
                add(1, "w")
                eventually(lambda: told() == expected)
                add(7)
                log.rename(log.with_name(f"some.log.{turn}-too"))
                add(3)
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
        add(4)
    with output.open("a") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: told() == expected)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert told() == expected


def test_stdin_is_read_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as source, os.fdopen(writing, "w") as sink:
        sink.write("one\ntwo")
        sink.close()
        monkeypatch.setattr(sys, "stdin", source)
        assert watched(server, "-", "--name", "stdin", "--json", "--all") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_source_that_falls_silent_is_told_once(
    server: Server,
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    before = server.engine.totals.silent_sources
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "w") as sink:
            sink.write("one\n")
            sink.flush()
            eventually(lambda: server.engine.totals.silent_sources == before + 1)

    writer = threading.Thread(target=write)
    writer.start()
    arguments = ["--silent-after", "1", "--webhook", hook.url, "--source", "\x1b", "--name", f"silent-{form}"]
    with os.fdopen(reading) as source:
        monkeypatch.setattr(sys, "stdin", source)
        assert watched(server, "-", *arguments, *(["--json"] if form == "json" else [])) == FOUND_ALERTS
    writer.join()
    out, err = capsys.readouterr()
    event = {"event": "silent", "source": "\x1b", "seconds": 1.0}
    assert out == (json.dumps(event) if form == "json" else r"! silent \x1b: no line for 1 s") + "\n"
    assert err.startswith("1 line, 0 alerts, 1 silence")
    assert hook.taken == [event]


def test_encodings_may_change_from_line_to_line(server: Server, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a café"
    log.write_bytes(b"\n".join([text.encode(), text.encode("latin-1"), text.encode("utf-16-le"), text.encode()]))
    assert watched(server, str(log), "--name", "encodings", "--json", "--all") == 0
    read = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert read == [text, "a caf\ufffd", "".join(f"{one}\0" for one in text[:-1]) + "\ufffd\0", text]


def test_of_a_file_without_any_line_break_the_beginning_is_told_once(
    server: Server, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"x" * 1_000_000)
    assert watched(server, str(log), "--name", "endless", "--json", "--all") == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(fact["cut"], len(fact["text"])) for fact in facts] == [(True, 4096)]


def test_a_file_that_vanishes_is_waited_for(server: Server, log: Path, tmp_path: Path) -> None:
    output, errors = tmp_path / "told", tmp_path / "errors"
    command = [sys.executable, "-m", "charloom.cli.main", "watch", str(log), "--follow", "--target", server.address]

    def told() -> list[str]:
        whole = output.read_text().rpartition("\n")[0]
        return [json.loads(line)["text"] for line in whole.splitlines()]

    with (
        output.open("w") as sink,
        errors.open("w") as trouble,
        subprocess.Popen([*command, "--json", "--all"], stdout=sink, stderr=trouble) as process,
    ):
        try:
            eventually(lambda: "does not exist; waiting for it" in errors.read_text())
            for text in ("one", "two"):
                log.write_text(f"{text}\n")
                eventually(lambda expected=text: told()[-1:] == [expected])
                log.unlink()
                gone = 2 if text == "one" else 3
                eventually(lambda times=gone: errors.read_text().count("does not exist") == times)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    assert told() == ["one", "two"]
    assert "Traceback" not in errors.read_text()


def test_one_interrupt_ends_a_command_that_waits_for_stdin(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "charloom.cli.main", "watch", "-", "--target", server.address, "--all"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert b"one" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read().startswith(b"1 line, 0 alerts")


def test_a_webhook_is_tried_again_but_not_for_ever(hook: Hook) -> None:
    waits: list[float] = []
    webhook = Webhook(hook.url, waits.append)
    hook.failures = [500, 429]
    assert webhook.post([{"n": 1}]) is None
    assert (hook.taken, waits) == ([{"n": 1}], [1.0, 2.0])
    hook.failures = [503] * TRIES
    assert "answers 503" in (webhook.post([{"n": 2}]) or "")
    hook.failures, hook.asked = [400], 0
    assert "answers 400" in (webhook.post([{"n": 3}]) or "")
    assert hook.asked == 1
    assert "1 alerts were not delivered" in (Webhook("http://127.0.0.1:9/", waits.append).post([{"n": 4}]) or "")


def test_characters_that_were_not_expected_are_marked_and_none_acts_on_the_terminal() -> None:
    assert marked("abc", [0.1, 9.0, 9.0], coloured=False) == "a»bc«"
    assert marked("a\x1bc", [9.0, 0.1, 0.1], coloured=True) == "\x1b[7ma\x1b[27m\\x1bc"
