"""`charloom score [TEXT|-]`."""

from __future__ import annotations

import argparse

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.lines import lines_of, of_lines
from charloom.cli.sessions.tokens import table
from charloom.cli.text import add_file, add_skip_unknown, given_text, unknown_characters
from charloom.client import Client, Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads stdin, as does giving none")
    add_file(parser, "read the text from a file")
    parser.add_argument("--each", action="store_true", help="also print a line for each character")
    parser.add_argument("--lines", action="store_true", help="each line is a text of its own; print a line for each")
    parser.add_argument(
        "--top-logprobs", type=int, default=0, metavar="N", help="with --each: the N most probable ones in each place"
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object; with --lines one for each")
    add_connection_arguments(parser, serverless=True)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a text is read with."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="NAME", help="name of the model (default: the server's first one)")
    source.add_argument("--session", metavar="ID", help="read from this session's state, which stays as it is")
    add_skip_unknown(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print how probable the text is."""
    if arguments.lines and (arguments.each or arguments.top_logprobs):
        raise CommandError("--lines tells of each line as a whole; leave out --each and --top-logprobs, or --lines")
    text = given_text(arguments)
    with connected(arguments) as client:
        if arguments.lines:
            return _print_lines(client, lines_of(text), arguments)
        score = _score(client, text, arguments)
    if arguments.json:
        print_json(score)
        return 0
    if arguments.each:
        print(table(score.logprobs))
    print(
        f"{score.bits_per_character:.4f} bits per character, perplexity {score.perplexity:.4f}, "
        f"{len(score.logprobs):,} tokens of {score.nats_per_token:.4f} nats"
    )
    return 0


def _print_lines(client: Client, lines: list[str], arguments: argparse.Namespace) -> int:
    """Print how probable each line is, without the line break at its end."""
    unknown = unknown_characters(arguments)
    if arguments.session is None:
        scores = client.score_many(lines, model=arguments.model, unknown_characters=unknown)
    else:
        scores = client.open_session(arguments.session).score_many(lines, unknown_characters=unknown)
    for score in of_lines(scores, range(1, len(lines) + 1), "score"):
        if arguments.json:
            print_json(score)
        else:
            print(f"{score.bits_per_character:8.4f}  {score.text}")
    return 0


def _score(client: Client, text: str, arguments: argparse.Namespace) -> Score:
    unknown, top = unknown_characters(arguments), arguments.top_logprobs
    if arguments.session is None:
        return client.score(text, model=arguments.model, unknown_characters=unknown, top_logprobs=top)
    return client.open_session(arguments.session).score(text, unknown_characters=unknown, top_logprobs=top)
