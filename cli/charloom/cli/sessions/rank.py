"""`charloom rank TEXT...`."""

from __future__ import annotations

import argparse

from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.score import add_reading_arguments
from charloom.cli.text import read_text, unknown_characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("candidates", nargs="+", metavar="TEXT", help="a text that may come next; up to 256 of them")
    parser.add_argument("--prompt", default="", help="what comes before them; - reads stdin")
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list, in the order of the texts")
    add_connection_arguments(parser, serverless=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the texts, the most probable first."""
    prompt = read_text(arguments.prompt)
    with connected(arguments) as client:
        source = client if arguments.session is None else client.open_session(arguments.session)
        ranked = source.rank(
            arguments.candidates,
            prompt=prompt,
            model=arguments.model,
            unknown_characters=unknown_characters(arguments),
        )
    if arguments.json:
        print_json(ranked)
        return 0
    for one in sorted(ranked, key=lambda one: one.logprob, reverse=True):
        print(f"{one.probability:8.2%}  {one.logprob:10.4f}  {one.logprob_per_token:8.4f}  {one.text!r}")
    return 0
