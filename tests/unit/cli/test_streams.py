"""Commands whose standard streams are closed, or of another encoding."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from charloom.cli.main import main
from tests.unit.client.fake_answers import TEXT
from tests.unit.client.fake_server import FakeServer

CLOSED = [">&-", "<&-", "2>&-", "<&- >&- 2>&-"]
CHARLOOM = (sys.executable, "-m", "charloom.cli.main")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


def run(line: str, **changed: str) -> subprocess.CompletedProcess[bytes]:
    """A command as a shell runs it, with `charloom` for this one."""
    line = line.replace("charloom", " ".join(CHARLOOM))
    return subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=500, env=os.environ | changed)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_closed_stream_is_no_fault(closed: str, server: FakeServer) -> None:
    done = run(f"charloom generate Hi --target {server.target} {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else TEXT.encode())


@pytest.fixture(scope="module")
def plain() -> Callable[[str], subprocess.CompletedProcess[bytes]]:
    """A command with its streams open, run once."""

    @cache
    def run_plain(command: str) -> subprocess.CompletedProcess[bytes]:
        server = FakeServer()
        try:
            return run(f"charloom {command} {to(server, command)}")
        finally:
            server.stop()

    return run_plain


def to(server: FakeServer, command: str) -> str:
    """Which server a command asks, if it asks one."""
    return "" if command == "study" else f"--target {server.target}"


CLIENTS = ["models", "score Hi", "peek Hi", "sessions list", "health --timeout 60", "bench --streams 2 --length 9"]


@pytest.mark.parametrize(
    ("command", "closed"),
    [*itertools.product(CLIENTS, CLOSED), ("study", CLOSED[0]), ("study", CLOSED[-1])],
)
def test_a_closed_stream_is_no_fault_of_any_command(
    command: str, closed: str, server: FakeServer, plain: Callable[[str], subprocess.CompletedProcess[bytes]]
) -> None:
    expected, done = plain(command), run(f"charloom {command} {to(server, command)} {closed}")
    assert (done.returncode, done.stderr) == (expected.returncode, b"" if "2>&-" in closed else expected.stderr)
    assert b"Traceback" not in expected.stderr


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("generate -", "give the text as an argument"),
        ("score -", "give the text as an argument"),
        ("sessions import -", "give a file"),
        ("chat", "a chat reads its lines from it"),
        ("train - --run {folder}/run", "give files or folders"),
    ],
)
def test_a_text_that_is_to_come_from_a_closed_stream_is_asked_for(
    command: str, instead: str, server: FakeServer, tmp_path: Path
) -> None:
    name = command.split()[0]
    target = "" if name == "train" else f"--target {server.target}"
    done = run(f"charloom {command.format(folder=tmp_path)} {target} <&-")
    assert done.returncode == 1
    assert done.stderr.decode() == f"charloom {name}: standard input is closed; {instead}\n"
    assert not list(tmp_path.iterdir())


def test_characters_that_the_terminal_lacks_are_written_as_escapes(server: FakeServer) -> None:
    done = run(f"charloom generate 'é' --echo --target {server.target}", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"\xe9")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("printf JULIET: | charloom generate", "JULIET:"),
        ("printf JULIET: | charloom generate -", "JULIET:"),
        ("charloom generate < {file}", "ROMEO:"),
        ("charloom generate </dev/null", ""),
        ("printf JULIET: | charloom generate HAMLET:", "HAMLET:"),
    ],
)
def test_what_is_piped_in_is_the_prompt_where_none_is_given(
    line: str, prompt: str, server: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("ROMEO:")
    before, after = line.format(file=file).split("generate", 1)
    assert run(f"{before}generate --target {server.target}{after}").returncode == 0
    (request,) = server.asked("Generate")
    assert request.options.prompt == prompt


def test_the_streams_of_the_caller_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip()
