"""Text that a command takes from its arguments, from standard input or from a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from charloom.cli import CommandError
from charloom.client import UnknownCharacters


def read_text(given: str) -> str:
    """An argument; a dash stands for standard input."""
    if given != "-":
        return _encodable("the text", given)
    try:
        return _encodable("stdin", sys.stdin.read())
    except UnicodeDecodeError as problem:
        raise CommandError(f"stdin is not {problem.encoding}: {problem.reason} at byte {problem.start}") from None


def read_file(path: Path) -> str:
    """The text of a file of UTF-8, with its line breaks as they are."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as problem:
        raise CommandError(f"{path} is not UTF-8: {problem.reason} at byte {problem.start}") from None


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
