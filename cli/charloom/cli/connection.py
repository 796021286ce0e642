"""What all commands that call a server share: its address, who calls, how long to wait, messages for failures."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from charloom.cli import CommandError
from charloom.cli.problems import words_of
from charloom.cli.variables import OF_CLIENTS
from charloom.client import DEFAULT_TARGET, CharloomError, Client, ConnectionFailed, RequestError

TIMEOUT = 60.0
"""Default of the seconds that a call may take."""
_ACCESS = (
    ("ca", "FILE", "PEM file of the authorities that the server's certificate may come from"),
    ("cert", "FILE", "PEM file of a certificate to show to the server"),
    ("key", "FILE", "PEM file of its private key"),
    ("token", "TOKEN", "key to show to the server; the variable keeps it out of the list of processes"),
    ("tenant", "NAME", "whose sessions to use, where the server lets its clients say so"),
)
"""Flags, and arguments of `Client`, that say who calls."""


def add_connection_arguments(
    parser: argparse.ArgumentParser, *, timeout: float | None = TIMEOUT, serverless: bool = False, but: str = ""
) -> None:
    """Declare `--target`, `--timeout` and the flags of identity and TLS; `timeout` is the default in seconds.

    With None the default is `TIMEOUT` too, but the command can tell whether one was given; `but` adds to the help what
    that means. A command that can run without a separate server (`serverless`) has `--bundle` too.
    """
    if serverless:
        parser.add_argument(
            "--bundle",
            metavar="DIRECTORY",
            help="use this bundle, or the bundled model by its name, without a server: the command is its own",
        )
    parser.add_argument(
        "--target",
        default=os.environ.get(OF_CLIENTS["target"]) or DEFAULT_TARGET,
        metavar="TARGET",
        help=f"the server: HOST:PORT, or unix:PATH (default: ${OF_CLIENTS['target']}, or else {DEFAULT_TARGET})",
    )
    for name, metavar, text in _ACCESS:
        parser.add_argument(
            f"--{name}",
            default=os.environ.get(OF_CLIENTS[name]) or None,
            metavar=metavar,
            help=f"{text} (default: ${OF_CLIENTS[name]})",
        )
    parser.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        default=_switch(OF_CLIENTS["tls"]),
        help="encrypt the connection (default: $CHARLOOM_TLS, or else if a certificate is given, or a token for "
        "another machine)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=timeout,
        metavar="SECONDS",
        help=f"how long a call may take; 0 is no limit (default: {TIMEOUT if timeout is None else timeout:g}{but})",
    )


def access_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of identity and TLS, as the arguments of `Client` with the same names."""
    return {name: getattr(arguments, name) for name in ("tls", *(name for name, _, _ in _ACCESS))}


def connected(arguments: argparse.Namespace) -> AbstractContextManager[Client]:
    """Connect a client by the command line's flags, see `connect`."""
    timeout = TIMEOUT if arguments.timeout is None else arguments.timeout
    bundle: str | None = getattr(arguments, "bundle", None)
    session: str | None = getattr(arguments, "session", None)
    if session == "":
        raise CommandError("--session is empty; give the id of a session, or leave it out")
    if bundle is not None:
        if session is not None:
            raise CommandError("--session needs a server that keeps it; leave out --bundle, or --session")
        return _local(bundle, timeout)
    serverless = hasattr(arguments, "bundle") and session is None
    hint = "; start one with `charloom serve`, or add `--bundle shakespeare`" if serverless else ""
    return connect(arguments.target, timeout, hint, **access_given(arguments))


@contextmanager
def connect(target: str, timeout: float | None = TIMEOUT, hint: str = "", **access: Any) -> Iterator[Client]:
    """A client for the command; its errors become messages for the person.

    Args:
        target: the server's address
        timeout: of a call, in seconds; 0 is no limit
        hint: advice that follows the message if no server may be running
        access: arguments of `Client` for identity and TLS
    """
    with _told_to_a_person(hint), Client(target, timeout=timeout or None, **access) as client:
        yield client


@contextmanager
def _local(bundle: str, timeout: float) -> Iterator[Client]:
    """A client with a server of its own, while the command runs."""
    try:
        import charloom.local
        from charloom.bundle import BundleError
    except ModuleNotFoundError as problem:
        raise CommandError(f"--bundle needs {problem.name}: pip install 'charloom[server]'") from problem
    try:
        client = charloom.local.open(bundle, timeout=timeout or None)
    except (BundleError, OSError, ValueError) as problem:
        raise CommandError(words_of(problem)) from problem
    with _told_to_a_person(), client:
        yield client


@contextmanager
def _told_to_a_person(hint: str = "") -> Iterator[None]:
    """Turn errors of the SDK into messages for people; `hint` is added if no server may be running."""
    try:
        yield
    except ConnectionFailed as problem:
        asked = "is a server running there" in str(problem)
        raise CommandError(f"{problem}{hint if asked else ''}") from problem
    except RequestError as problem:
        # Where no server has answered, none has an id to look for.
        named = f" [request {problem.request_id}]" if problem.request_id else ""
        raise CommandError(f"{problem}{named}") from problem
    except CharloomError as problem:
        raise CommandError(str(problem)) from problem


def _switch(variable: str) -> bool | None:
    """A yes or no from the environment; None where it says nothing."""
    said = os.environ.get(variable, "").strip().lower()
    return None if not said else said not in ("0", "false", "no", "off")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; give 0 (no limit) or more")
    return seconds
