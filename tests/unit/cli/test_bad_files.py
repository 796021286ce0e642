"""What is said of files that a command cannot use: one line, with the path, and without the system's own words."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charloom.cli.main import main
from charloom.cli.problems import words_of

NOBODY = ["--target", "localhost:1", "--timeout", "5"]
READ = {
    "score --file": ["score", "--file", "{}", *NOBODY],
    "score --lines": ["score", "--lines", "--file", "{}", *NOBODY],
    "label --file": ["label", "--file", "{}", *NOBODY],
    "label --lines": ["label", "--lines", "--file", "{}", *NOBODY],
    "sessions import": ["sessions", "import", "{}", *NOBODY],
    "watch": ["watch", "{}", *NOBODY],
    "--ca": ["score", "a", "--ca", "{}", *NOBODY],
    "--cert": ["score", "a", "--ca", "{}", "--cert", "{}", "--key", "{}", *NOBODY],
    "serve --keys": ["serve", "--keys", "{}", "--port", "0"],
    "serve --tls-cert": ["serve", "--tls-cert", "{}", "--tls-key", "{}", "--port", "0"],
    "train": ["train", "{}", "--run", "{run}"],
}
"""Commands that read a file."""
OPENED = {
    "--bundle": ["score", "a", "--bundle", "{}"],
    "serve": ["serve", "{}", "--port", "0"],
    "doctor": ["doctor", "{}"],
    "sign": ["sign", "{}", "--key", "{}"],
    "report": ["report", "{}"],
    "evaluate": ["evaluate", "{}"],
    "export": ["export", "{}", "{run}"],
    "classify train": ["classify", "train", "{}", "--run", "{run}"],
    "classify evaluate": ["classify", "evaluate", "{}"],
    "classify predict": ["classify", "predict", "{}", "text"],
}
"""Commands that read a directory."""


def missing(folder: Path) -> Path:
    return folder / "nothing"


def below_a_file(folder: Path) -> Path:
    return binary(folder) / "nothing"


def directory(folder: Path) -> Path:
    (folder / "directory").mkdir()
    return folder / "directory"


def binary(folder: Path) -> Path:
    (folder / "binary").write_bytes(bytes(range(256)))
    return folder / "binary"


@pytest.fixture(autouse=True)
def _process_is_no_server() -> Iterator[None]:
    """A server takes signals for itself, and logs, before it looks at its files."""
    taken = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    for one, handler in taken.items():
        signal.signal(one, handler)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says when it refuses."""
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"charloom {arguments[0]}: ")
    assert error.count("\n") == 1, error
    assert "Errno" not in error
    return error


CASES = [
    *((READ, name, bad) for name in READ for bad in (missing, below_a_file, directory)),
    *((READ, name, binary) for name in ("score --file", "label --file", "label --lines", "--ca", "train")),
    *((OPENED, name, bad) for name in OPENED for bad in (missing, below_a_file, directory, binary)),
]


@pytest.mark.parametrize(("commands", "name", "bad"), CASES, ids=[f"{name}: {bad.__name__}" for _, name, bad in CASES])
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    commands: dict[str, list[str]],
    name: str,
    bad: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(bad(tmp_path))
    arguments = [word.replace("{run}", str(tmp_path / "run")).replace("{}", path) for word in commands[name]]
    assert path in said(arguments, capsys)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "there is no a; check the path"),
        (
            PermissionError(13, "Permission denied", "a"),
            "a may not be read or written by this user; change its permissions, or give another path",
        ),
        (IsADirectoryError(21, "Is a directory", b"a"), "a is a directory; give a file"),
        (FileExistsError(17, "File exists", "a"), "a exists already; give another path, or remove it first"),
        (OSError(5, "Input/output error", "a"), "a: Input/output error"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("the words of who raised it"), "the words of who raised it"),
        (ValueError("anything else"), "anything else"),
    ],
)
def test_words_of_errors(problem: Exception, words: str) -> None:
    assert words_of(problem) == words
