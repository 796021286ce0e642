"""`charloom label [TEXT|-]`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.lines import lines_of, of_lines
from charloom.cli.text import add_file, given_text, refuse_two_texts, standard_input
from charloom.client import Client, LabelledText


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads stdin, as does giving none")
    add_file(parser, "read the text from a file")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="a label for each line that is not empty")
    how.add_argument(
        "--stream", action="store_true", help="read stdin as it comes: after each line the label of all text so far"
    )
    parser.add_argument("--model", metavar="NAME", help="name of the classifier (default: the server's first one)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each label")
    add_connection_arguments(parser, timeout=None, serverless=True, but="; no limit for --stream")


def run(arguments: argparse.Namespace) -> int:
    """Print the label of a text, or of each line, or of a text that is still coming."""
    if arguments.stream:
        return _label_stdin(arguments)
    text = given_text(arguments)
    with connected(arguments) as client:
        if not arguments.lines:
            _print(client.classify(text, model=arguments.model), arguments)
            return 0
        for line, found in _of_lines(client, text, arguments.model):
            _print(found, arguments, line, one_line=True)
    return 0


def _label_stdin(arguments: argparse.Namespace) -> int:
    """Print the label of what standard input has so far, after each of its lines."""
    refuse_two_texts(arguments)
    if arguments.file is not None or arguments.text not in (None, "-"):
        raise CommandError("--stream reads stdin; leave the text and --file out")
    with connected(arguments) as client:
        for found in _as_it_comes(client, arguments):
            _print(found, arguments, one_line=True)
    return 0


def _of_lines(client: Client, text: str, model: str | None) -> Iterator[tuple[str, LabelledText]]:
    """What each line is that is not empty."""
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    found = client.classify_many((line for _, line in lines), model=model)
    return of_lines(found, [number for number, _ in lines], "label")


def _as_it_comes(client: Client, arguments: argparse.Namespace) -> Iterator[LabelledText]:
    """After each line of standard input, what all of it so far is."""
    with client.classify_stream(model=arguments.model, timeout=arguments.timeout or None) as labeller:
        try:
            for line in standard_input("give the text as an argument"):
                yield labeller.read(line)
        except UnicodeDecodeError as problem:
            raise CommandError(f"stdin is not {problem.encoding}: {problem.reason} at byte {problem.start}") from None


def _print(found: LabelledText, arguments: argparse.Namespace, text: str = "", *, one_line: bool = False) -> None:
    if arguments.json:
        told = dataclasses.asdict(found) | ({"text": text} if text else {})
        print_json(told, flush=True)
        return
    best = max(found.probabilities.values(), default=0.0)
    if one_line:
        print("\t".join([found.label or "-", f"{best:.4f}", *([text] if text else [])]), flush=True)
        return
    _warn(found)
    print(found.label)
    for label, chance in sorted(found.probabilities.items(), key=lambda item: -item[1]):
        print(f"{chance:8.4f}  {label}")


def _warn(found: LabelledText) -> None:
    if found.left_out:
        print(f"the text has {found.tokens:,} tokens; the last {found.left_out:,} were not read", file=sys.stderr)
    if found.unknown_count:
        named = ", ".join(f"{part.text!r} at {part.position}" for part in found.unknown)
        more = "" if found.unknown_count == len(found.unknown) else ", ..."
        print(f"{found.unknown_count:,} are unknown to the model, and read as such: {named}{more}", file=sys.stderr)
