"""Text that a command takes from its arguments, from standard input or from a file."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import TextIO

from charloom.cli import CommandError
from charloom.client import UnknownCharacters

BYTE_ORDER_MARK = "\ufeff"
"""Some editors put it in front of a file; no text is meant to have it."""
ZEROS = 0.7
"""Share of zeros among every other byte above which a file is taken for UTF-16, if the bytes between have few."""


def standard_input(instead: str) -> TextIO:
    """Standard input; `instead` says what to do where the caller has closed it."""
    if sys.stdin is None:
        raise CommandError(f"standard input is closed; {instead}")
    return sys.stdin


def read_text(given: str) -> str:
    """An argument; a dash stands for standard input."""
    if given != "-":
        return _encodable("the text", given)
    stream = standard_input("give the text as an argument")
    try:
        return _encodable("stdin", stream.read()).removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as problem:
        raise CommandError(f"stdin is not {problem.encoding}: {problem.reason} at byte {problem.start}") from None


def piped_text() -> str:
    """What is piped into the command, or redirected from a file; nothing at a terminal, or where stdin is closed.

    A socket is as good as a pipe: Node.js and inetd give their programs one.
    """
    if sys.stdin is None:
        return ""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # it is no file at all
        return ""
    return read_text("-") if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind) else ""


def add_file(parser: argparse._ActionsContainer, help: str) -> None:
    """Declare `--file` and the `--encoding` of that file."""
    parser.add_argument("--file", type=Path, metavar="PATH", help=help)
    parser.add_argument("--encoding", help="encoding of --file, for example utf-16 or cp1252 (default: utf-8)")


def given_text(arguments: argparse.Namespace) -> str:
    """The text of `--file`, or `arguments.text`; without either, or for a dash, that of standard input.

    Raises:
        CommandError: there are two texts, or an encoding without a file, or it cannot be read as text.
    """
    refuse_two_texts(arguments)
    if arguments.file is not None:
        return read_file(arguments.file, arguments.encoding)
    return read_text("-" if arguments.text is None else arguments.text)


def refuse_two_texts(arguments: argparse.Namespace) -> None:
    """Refuse a text beside `--file`, and an encoding without it."""
    if arguments.file is not None and arguments.text is not None:
        raise CommandError("give the text itself or --file, not both")
    if arguments.file is None and arguments.encoding is not None:
        raise CommandError("--encoding is that of --file; give a file too, or leave it out")


def read_file(path: Path, encoding: str | None) -> str:
    """The text of a file, without a byte order mark and with its line breaks as they are; UTF-8 unless it is told."""
    encoding = "utf-8" if encoding is None else encoding
    content = path.read_bytes()
    try:
        text = content.decode(encoding).removeprefix(BYTE_ORDER_MARK)
        text.encode()
    except LookupError as problem:
        raise CommandError(f"--encoding: {problem}; give one that Python knows, for example utf-8 or cp1252") from None
    except UnicodeDecodeError as problem:
        raise CommandError(
            f"{path} is not {encoding.upper()}: {problem.reason} at byte {problem.start}; say which encoding it has "
            "with --encoding (with a byte order mark utf-16, of Western text most often cp1252)"
        ) from None
    except UnicodeError as problem:
        why = getattr(problem, "reason", problem)
        raise CommandError(
            f"{path} is not {encoding.upper()}: {why}; say which encoding it has with --encoding"
        ) from None
    even, odd = (content[start::2].count(0) / max(len(content) // 2, 1) for start in (0, 1))
    if "\0" in text and max(even, odd) > ZEROS and min(even, odd) < 1 - ZEROS:
        named = "utf-16-le" if odd > even else "utf-16-be"
        raise CommandError(f"{path} seems to be UTF-16, and not {encoding.upper()}; read it with --encoding {named}")
    return text


def _encodable(name: str, text: str) -> str:
    """The text, if UTF-8 can carry it; Python reads a byte that it cannot decode as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        character = text[problem.start]
        raise CommandError(f"{name} is not UTF-8: {character!r} at character {problem.start}") from None
    return text


def add_skip_unknown(parser: argparse._ActionsContainer) -> None:
    """Declare `--skip-unknown`."""
    parser.add_argument("--skip-unknown", action="store_true", help="leave out characters that the model lacks")


def unknown_characters(arguments: argparse.Namespace) -> UnknownCharacters | None:
    """What `--skip-unknown` asks for."""
    return "skip" if arguments.skip_unknown else None
