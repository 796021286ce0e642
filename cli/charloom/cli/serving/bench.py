"""`charloom bench`: how much text a server gives, and how soon."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import textwrap
from collections.abc import Callable
from typing import Any

import grpc

from charloom.cli import CommandError
from charloom.cli.connection import access_given, add_connection_arguments, connected
from charloom.cli.output import columns, print_json
from charloom.cli.serving.load import LENGTHS, WORKLOADS, Load, run_load
from charloom.client import InvalidValue, Overloaded
from charloom.client._access import access

_ONLY = {"rounds": ("long", "short"), "length": ("long", "arrivals"), "probes": ("arrivals",), "prompt": ("arrivals",)}
"""The flags that some workloads do not have, and which have them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.epilog = "workloads: " + "; ".join(f"{name}: {what}" for name, what in WORKLOADS.items())
    parser.add_argument("--workload", choices=WORKLOADS, default="long", help="what the clients do (default: long)")
    parser.add_argument(
        "--streams",
        type=_at_least(0),
        default=64,
        metavar="N",
        help="clients at a time; 0 with arrivals measures an idle server (default: 64)",
    )
    parser.add_argument(
        "--rounds", type=_at_least(1), metavar="N", help="streams or sessions of each client (default: 1)"
    )
    parser.add_argument(
        "--length",
        type=_at_least(1),
        metavar="N",
        help="characters of a stream (default: {long}; with arrivals {arrivals})".format(**LENGTHS),
    )
    parser.add_argument("--probes", type=_at_least(1), metavar="N", help="probes of arrivals (default: 200)")
    parser.add_argument("--prompt", type=_at_least(0), metavar="N", help="characters of a probe's prompt (default: 0)")
    parser.add_argument(
        "--connections",
        type=_at_least(1),
        default=Load.connections,
        metavar="N",
        help=f"connections that the clients share (default: {Load.connections})",
    )
    parser.add_argument(
        "--shared-stream", action="store_true", help="one gRPC stream for all calls of a connection, not one for each"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_connection_arguments(parser, timeout=600.0)


def run(arguments: argparse.Namespace) -> int:
    """Load the server and print the figures."""
    load = load_of(arguments)
    # One call through the SDK, whose errors say what is wrong with the address or the server. That it is full is no
    # error here: refusals are counted.
    with connected(arguments) as client, contextlib.suppress(Overloaded):
        for _ in client.generate(max_tokens=1):
            pass
    try:
        figures = asyncio.run(run_load(load))
    except grpc.aio.AioRpcError as problem:
        said = f"{problem.code().name}: {problem.details()}"
        raise CommandError(f"a call to {load.target} failed and the load was broken off: {said}") from None
    if arguments.json:
        print_json(figures)
    else:
        print(table(load, figures))
    return 0


def load_of(arguments: argparse.Namespace) -> Load:
    """The load that the flags ask for.

    Raises:
        CommandError: they do not go together.
    """
    workload = arguments.workload
    given = {name: value for name in _ONLY if (value := getattr(arguments, name)) is not None}
    for name in given:
        if workload not in _ONLY[name]:
            raise CommandError(
                f"--{name} has no meaning with --workload {workload}; it goes with: {', '.join(_ONLY[name])}"
            )
    if not arguments.streams and workload != "arrivals":
        raise CommandError(f"--streams 0 has no meaning with --workload {workload}; it goes with: arrivals")
    if workload in LENGTHS:
        given.setdefault("length", LENGTHS[workload])
    try:
        who = access(arguments.target, **access_given(arguments))
    except InvalidValue as problem:
        raise CommandError(str(problem)) from problem
    given |= {"connections": arguments.connections, "timeout": arguments.timeout or None, "access": who}
    given["shared_stream"] = arguments.shared_stream
    return Load(arguments.target, workload, arguments.streams, **given)


def table(load: Load, figures: dict[str, Any]) -> str:
    """The figures as a table for a terminal."""
    first = "first character" if load.workload != "arrivals" else "first character of a probe"
    lines = [
        ("characters/s", f"{figures['chars_per_s']:,}"),
        ("messages/s", f"{figures['messages_per_s']:,}"),
        (first, _times(figures["ttfc_ms"])),
        ("gap between messages", _times(figures["gap_ms"])),
    ]
    if "calls_per_s" in figures:
        lines.insert(1, ("calls/s", f"{figures['calls_per_s']:,}"))
    if fairness := figures["gap_max_over_median"]:
        shown = f"{fairness['p50']} at the median, {fairness['max']} at the worst"
        lines.append(("largest gap of a stream / its median", shown))
    lines.append(("this client", f"{figures['client_cpu']} cores"))
    if figures["refused"]:
        lines.append(("refused", f"{figures['refused']:,} calls, {_times(figures['refusal_ms'])}"))
    title = f"{load.workload}, {load.streams} streams at a time, from {load.target}, {figures['seconds']:.1f} s"
    return f"{title}\n{textwrap.indent(columns(lines), '  ')}"


def _times(found: dict[str, float] | None) -> str:
    return f"p50 {found['p50']:,.1f} ms, p99 {found['p99']:,.1f} ms" if found else "-"


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return value

    return number
