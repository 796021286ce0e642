"""`charloom top`: what a server does, on the terminal, again and again."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.serving.activity import Activity, activity, as_json, lines
from charloom.client import Client, ConnectionFailed, DeadlineExceeded, Unavailable

_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""A screen of its own without a cursor, and back."""
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="from one look to the next (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="look at one interval, print it and end")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line, for each interval")
    add_connection_arguments(parser, timeout=10.0)
    parser.epilog = "CHARS/S of a model of bytes or words counts those; Ctrl-C ends it"


def run(arguments: argparse.Namespace) -> int:
    """Show the server until Ctrl-C, or once."""
    target = arguments.target
    with connected(arguments) as client:
        if arguments.once or arguments.json or not sys.stdout.isatty():
            for found in _activities(client, arguments.interval):
                said = json.dumps(as_json(found)) if arguments.json else "\n".join([*lines(found, target), ""])
                print(said, flush=True)
                if arguments.once:
                    break
            return 0
        with _screen():
            _draw([f"{target}: looking for {arguments.interval:g} s"])
            _show(client, arguments.interval, target)
    return 0


def _show(client: Client, interval: float, target: str) -> None:
    """Draw what it does, until Ctrl-C; a server that is gone may come again, as a restarted one does."""
    seen = False
    while True:
        try:
            for found in _activities(client, interval):
                seen = True
                _draw(lines(found, target))
        except (ConnectionFailed, Unavailable, DeadlineExceeded) as problem:
            if not seen:
                raise
            _draw([f"{target}: {problem}", "", "trying again"])
            time.sleep(interval)


def _activities(client: Client, interval: float) -> Iterator[Activity]:
    before = client.status()
    while True:
        time.sleep(interval)
        now = client.status()
        yield activity(before, now)
        before = now


@contextmanager
def _screen() -> Iterator[None]:
    sys.stdout.write(_BEGIN)
    try:
        yield
    finally:
        sys.stdout.write(_END)
        sys.stdout.flush()


def _draw(shown: list[str]) -> None:
    """Put lines over those that were there; what does not fit is cut off."""
    width, height = os.get_terminal_size(sys.stdout.fileno())  # as it is now; LINES may be older
    fitting = [line[:width] + _CLEAR_LINE for line in shown[:height]]
    sys.stdout.write(_HOME + "\n".join(fitting) + _CLEAR_REST)
    sys.stdout.flush()


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds
