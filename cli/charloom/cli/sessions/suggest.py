"""`charloom suggest [PROMPT|-]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.score import add_reading_arguments
from charloom.cli.text import read_file, read_text, unknown_characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what comes before; - reads stdin")
    parser.add_argument("--count", type=int, metavar="N", help="how many texts, up to 20 (default: 5)")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--boundary", choices=("word", "line", "length"), help="where each ends (default: word)")
    end.add_argument("--regex", metavar="PATTERN", help="a regular expression that each is to match")
    end.add_argument("--choices", nargs="+", metavar="TEXT", help="texts of which each is one; after the prompt")
    end.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON that the schema in this file allows")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="the most tokens of each, up to 256 (default: 32)")
    parser.add_argument(
        "--beam", type=int, metavar="N", help="texts that are open at a time, up to 64 (default: 16, or the count)"
    )
    add_reading_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_connection_arguments(parser, serverless=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the most probable texts."""
    prompt = read_text(arguments.prompt)
    schema = None if arguments.json_schema is None else read_file(arguments.json_schema, "utf-8")
    with connected(arguments) as client:
        source = client if arguments.session is None else client.open_session(arguments.session)
        found = source.suggest(
            prompt,
            count=arguments.count,
            boundary=arguments.boundary,
            regex=arguments.regex,
            choices=arguments.choices,
            json_schema=schema,
            max_tokens=arguments.max_tokens,
            beam=arguments.beam,
            model=arguments.model,
            unknown_characters=unknown_characters(arguments),
        )
    if arguments.json:
        print_json(found)
        return 0
    for one in found.texts:
        print(f"{one.probability:8.2%}  {one.text!r}{'' if one.ended else ' ...'}")
    return 0
