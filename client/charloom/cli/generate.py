"""`charloom generate [PROMPT|-]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connect, plain
from charloom.client import Client, FinishReason, GenerateOptions, NotFound, Result, Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="text to go on from; - reads stdin")
    add_generation_arguments(parser)
    parser.add_argument(
        "--session",
        metavar="ID",
        help="go on from this session's state and leave the new one there; it is made if there is none",
    )
    parser.add_argument(
        "--echo", action=argparse.BooleanOptionalAction, default=False, help="print the prompt first (default: no)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of streaming")
    parser.add_argument("--stats", action="store_true", help="print a line of figures to stderr at the end")
    add_connection_arguments(parser)


def add_generation_arguments(parser: argparse.ArgumentParser, *, max_tokens: int | None = None) -> None:
    """Declare what and how to generate; a flag that is not given leaves the default to the server."""
    default = "the server's, 256 unless it sets another limit" if max_tokens is None else max_tokens
    group = parser.add_argument_group("generation")
    group.add_argument("--model", metavar="NAME", help="name of the model (default: the server's first one)")
    group.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"tokens to generate (default: {default})"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="0 is greedy; above 1 is more varied")
    group.add_argument("--top-k", type=int, metavar="K", help="only the K most probable tokens; 0 is off")
    group.add_argument("--top-p", type=float, metavar="P", help="only tokens that together reach P; 1 is off")
    group.add_argument("--min-p", type=float, metavar="P", help="only tokens at least P times the best; 0 is off")
    group.add_argument("--seed", type=int, metavar="N", help="of the random numbers (default: the server draws one)")
    group.add_argument("--skip-unknown", action="store_true", help="leave out characters that the model lacks")


def sampling_options(arguments: argparse.Namespace) -> GenerateOptions:
    """The options that every call of a command shares: all but the model and the seed."""
    return GenerateOptions(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        unknown_characters="skip" if arguments.skip_unknown else None,
    )


def run(arguments: argparse.Namespace) -> int:
    """Stream text to stdout."""
    prompt = _prompt(arguments.prompt)
    options = sampling_options(arguments)
    options["model"] = arguments.model
    options["seed"] = arguments.seed
    with connect(arguments.target, arguments.timeout) as client:
        source = _session(client, arguments) if arguments.session else client
        if arguments.json:
            completion = source.complete(prompt, **options)
            shown = {"prompt": prompt, **dataclasses.asdict(completion)}
            print(json.dumps(shown, ensure_ascii=False, default=plain))
            text, result = completion.text, completion.result
        else:
            text, result = _stream(source, prompt if arguments.echo else "", prompt, options)
    if arguments.stats:
        print(stats(text, result), file=sys.stderr)
    if result.finish_reason is FinishReason.DRAINING:
        raise CommandError("the server is stopping; the text ends early")
    return 0


def _session(client: Client, arguments: argparse.Namespace) -> Session:
    """The session that was asked for; one that never existed is made, one that expired is not made again."""
    try:
        return client.open_session(arguments.session)
    except NotFound as problem:
        if problem.reason != "SESSION_NOT_FOUND":
            raise
    session = client.session(id=arguments.session, model=arguments.model, seed=arguments.seed, keep=True)
    print(f"a new session: {arguments.session}", file=sys.stderr)
    return session


def stats(text: str, result: Result) -> str:
    """One line of figures; times are the server's."""
    speed = len(text) / result.timings.total if result.timings.total > 0 else 0.0
    return (
        f"{result.finish_reason.value}: {result.usage.prompt_tokens} + {result.usage.completion_tokens} tokens, "
        f"{speed:,.0f} characters/s, first token after {result.timings.first_token * 1000:.1f} ms, "
        f"seed {result.seed}"
    )


def _stream(source: Client | Session, lead: str, prompt: str, options: GenerateOptions) -> tuple[str, Result]:
    with source.generate(prompt, **options) as stream:
        if lead:
            sys.stdout.write(lead)
            sys.stdout.flush()
        for text in stream:
            sys.stdout.write(text)
            sys.stdout.flush()
        result = stream.result()
    # A shell would otherwise put its prompt behind the text; a file gets the text and nothing else.
    if sys.stdout.isatty():
        sys.stdout.write("\n")
    sys.stdout.flush()
    return stream.text, result


def _prompt(given: str) -> str:
    if given != "-":
        return given
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as problem:
        raise CommandError(f"stdin is not {problem.encoding}: {problem.reason} at byte {problem.start}") from None
