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
    """What is piped into the command, or redirected from a file; nothing at a terminal, or where stdin is closed."""
    if sys.stdin is None:
        return ""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # it is no file at all
        return ""
    return read_text("-") if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) else ""


def add_file(parser: argparse._ActionsContainer, help: str) -> None:
    """Declare `--file` and the `--encoding` of that file."""
    parser.add_argument("--file", type=Path, metavar="PATH", help=help)
    parser.add_argument(
        "--encoding", default="utf-8", help="encoding of --file, for example utf-16 or cp1252 (default: utf-8)"
    )


def read_file(path: Path, encoding: str) -> str:
    """The text of a file, without a byte order mark and with its line breaks as they are."""
    try:
        return path.read_bytes().decode(encoding).removeprefix(BYTE_ORDER_MARK)
    except LookupError as problem:
        raise CommandError(f"--encoding: {problem}; give one that Python knows, for example utf-8 or cp1252") from None
    except UnicodeDecodeError as problem:
        raise CommandError(
            f"{path} is not {encoding.upper()}: {problem.reason} at byte {problem.start}; "
            "say which encoding it has with --encoding"
        ) from None


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
