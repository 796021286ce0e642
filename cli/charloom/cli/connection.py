"""What all commands that call a server share: its address, how long to wait, and messages for failures."""

from __future__ import annotations

import argparse
import enum
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from charloom.cli import CommandError
from charloom.client import DEFAULT_TARGET, CharloomError, Client

TARGET_VARIABLE = "CHARLOOM_TARGET"


def add_connection_arguments(parser: argparse.ArgumentParser, *, timeout: float = 60.0) -> None:
    """Declare `--target` and `--timeout`; `timeout` is the default in seconds."""
    parser.add_argument(
        "--target",
        default=os.environ.get(TARGET_VARIABLE, DEFAULT_TARGET),
        metavar="TARGET",
        help=f"the server: HOST:PORT, or unix:PATH (default: ${TARGET_VARIABLE}, or else {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=timeout,
        metavar="SECONDS",
        help=f"how long a call may take; 0 is no limit (default: {timeout:g})",
    )


@contextmanager
def connect(target: str, timeout: float | None = 60.0) -> Iterator[Client]:
    """A client for the command; its errors become messages for the person. A timeout of 0 is no limit."""
    try:
        with Client(target, timeout=timeout or None) as client:
            yield client
    except CharloomError as problem:
        raise CommandError(str(problem)) from problem


def plain(value: object) -> object:
    r"""What `json.dumps` does not know: times as ISO 8601, enums as their text, bytes that are no UTF-8 as `\xc3`."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    raise TypeError(f"no JSON for {type(value).__name__}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; give 0 (no limit) or more")
    return seconds
