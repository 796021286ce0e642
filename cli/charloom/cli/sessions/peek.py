"""`charloom peek [PROMPT|-]`."""

from __future__ import annotations

import argparse

from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.score import add_reading_arguments
from charloom.cli.sessions.tokens import chart
from charloom.cli.text import read_text, unknown_characters
from charloom.client import InvalidArgument, Peek

TOP = 20
"""How many are shown unless somebody says so."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what comes before; - reads stdin")
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help=f"how many to show; 0 is all (default: {TOP}, or all where there are fewer)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_connection_arguments(parser, serverless=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the distribution of the next character."""
    prompt = read_text(arguments.prompt)
    with connected(arguments) as client:
        source = client if arguments.session is None else client.open_session(arguments.session)
        unknown = unknown_characters(arguments)

        def peeked(top: int) -> Peek:
            return source.peek(prompt, top=top, model=arguments.model, unknown_characters=unknown)

        try:
            peek = peeked(TOP if arguments.top is None else arguments.top)
        except InvalidArgument as problem:
            if arguments.top is not None or "top" not in dict(problem.violations):
                raise
            peek = peeked(0)  # the model has fewer symbols
    if arguments.json:
        print_json(peek)
        return 0
    for distribution in peek.distributions:
        print(chart(distribution))
    return 0
