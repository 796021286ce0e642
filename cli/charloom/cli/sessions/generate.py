"""`charloom generate [PROMPT|-]`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import print_json
from charloom.cli.sessions.tokens import table
from charloom.cli.text import add_skip_unknown, piped_text, read_file, read_text, unknown_characters
from charloom.client import CharloomError, Client, Completion, FinishReason, GenerateOptions, NotFound, Result, Session
from charloom.controls import controls

CLEANUP = 5.0
"""Seconds that each call may take that takes back what was made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="text to go on from; - reads stdin, as does giving none where stdin is a pipe, a file or a socket",
    )
    add_generation_arguments(parser)
    parser.add_argument(
        "--session",
        metavar="ID",
        help="go on from this session's state and leave the new one there; it is made if there is none",
    )
    parser.add_argument("--adaptive", action="store_true", help="let a session that is made learn from its text")
    parser.add_argument(
        "--echo", action=argparse.BooleanOptionalAction, default=False, help="print the prompt first (default: no)"
    )
    parser.add_argument(
        "-n",
        "--continuations",
        type=int,
        metavar="N",
        help="print N continuations, each as a whole and with its seed; the same command with that --seed, and without "
        "-n, goes on with one of them",
    )
    parser.add_argument(
        "--logprobs", action="store_true", help="print a table of the tokens and their probabilities to stderr"
    )
    parser.add_argument(
        "--top-logprobs", type=int, metavar="N", help="with --logprobs: also the N most probable tokens in each place"
    )
    group = parser.add_argument_group(
        "constraint", "The whole text is to be one that this allows; it ends by itself, within --max-tokens"
    )
    one = group.add_mutually_exclusive_group()
    one.add_argument("--regex", metavar="PATTERN", help="a text that this regular expression (as of Python) matches")
    one.add_argument("--choices", nargs="+", metavar="TEXT", help="one of these texts; give the prompt before them")
    one.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON that the schema in this file allows")
    group.add_argument(
        "--resample",
        action="store_true",
        help="with -n: replace texts that it has bent much by copies of others while they run; prints their weights",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of streaming")
    parser.add_argument("--stats", action="store_true", help="print a line of figures to stderr at the end")
    add_connection_arguments(parser, serverless=True)


def add_generation_arguments(parser: argparse.ArgumentParser, *, max_tokens: int | None = None) -> None:
    """Declare what and how to generate; a flag that is not given leaves the default to the server."""
    default = "the server's, 256 unless it sets another limit" if max_tokens is None else max_tokens
    group = parser.add_argument_group(
        "generation", "A value that begins with a dash is written with an equals sign: --stop=---"
    )
    group.add_argument("--model", metavar="NAME", help="name of the model (default: the server's first one)")
    group.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"tokens to generate (default: {default})"
    )
    group.add_argument("--min-tokens", type=int, metavar="N", help="no stop string counts before N tokens (default: 0)")
    group.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end as soon as this has been generated; may be given several times; most shells write a line break as "
        "$'\\n'",
    )
    group.add_argument("--include-stop", action="store_true", help="print the stop string too")
    group.add_argument("--seed", type=int, metavar="N", help="of the random numbers (default: one is drawn)")
    add_skip_unknown(group)
    group = parser.add_argument_group("sampling")
    for control in controls():
        group.add_argument(
            f"--{control.option.replace('_', '-')}",
            type=control.type,
            metavar="N" if control.type is int else "X",
            help=f"{control.words}; {control.wanted}",
        )
    group.add_argument(
        "--logit-bias",
        type=_bias,
        action="append",
        metavar="CHARACTERS=AMOUNT",
        help="added to the logit of each of these characters; may be given several times",
    )
    group.add_argument("--allowed-characters", metavar="CHARACTERS", help="generate only these")
    group.add_argument("--forbidden-characters", metavar="CHARACTERS", help="generate none of these")


def sampling_options(arguments: argparse.Namespace) -> GenerateOptions:
    """The options that every call of a command shares: all but the model and the seed."""
    others = GenerateOptions(
        max_tokens=arguments.max_tokens,
        min_tokens=arguments.min_tokens,
        stop=arguments.stop,
        include_stop=arguments.include_stop,
        logit_bias=_sums(arguments.logit_bias or ()) or None,
        allowed_characters=arguments.allowed_characters,
        forbidden_characters=arguments.forbidden_characters,
        unknown_characters=unknown_characters(arguments),
    )
    numbers = {control.option: getattr(arguments, control.option) for control in controls()}
    return cast(GenerateOptions, {**others, **numbers})


def _bias(word: str) -> tuple[str, float]:
    characters, _, amount = word.rpartition("=")
    try:
        if characters:
            return characters, float(amount)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} is not CHARACTERS=AMOUNT, such as aeiou=-2.5")


def _sums(biases: Iterable[tuple[str, float]]) -> dict[str, float]:
    """As the server does it: characters that are named twice get the sum."""
    sums: dict[str, float] = {}
    for characters, amount in biases:
        sums[characters] = sums.get(characters, 0.0) + amount
    return sums


def run(arguments: argparse.Namespace) -> int:
    """Stream text to stdout, or print it as a whole where that is asked for."""
    prompt = piped_text() if arguments.prompt is None else read_text(arguments.prompt)
    lead = prompt if arguments.echo else ""
    if arguments.adaptive and arguments.session is None:
        raise CommandError("--adaptive is for a session that --session makes; give that too, or leave it out")
    if arguments.json and arguments.echo:
        raise CommandError("--json has the prompt beside the text; leave out --echo, or --json")
    options = sampling_options(arguments)
    options["model"] = arguments.model
    options["seed"] = arguments.seed
    options["regex"], options["choices"] = arguments.regex, arguments.choices
    if arguments.json_schema is not None:
        options["json_schema"] = read_file(arguments.json_schema, "utf-8")
    options["logprobs"] = arguments.logprobs
    options["top_logprobs"] = arguments.top_logprobs
    if arguments.resample and arguments.continuations is None:
        raise CommandError("--resample takes several texts; give -n N")
    with connected(arguments) as client, _source(client, arguments) as source:
        if arguments.continuations is not None:
            with source.continuations(
                prompt, n=arguments.continuations, resample=arguments.resample, **options
            ) as continuations:
                completions = continuations.completions()
        elif arguments.json:
            completions = [source.complete(prompt, **options)]
        else:
            completions = [_stream(source, lead, prompt, options)]
    if arguments.json:
        _print_json(prompt, completions, several=arguments.continuations is not None)
    for number, completion in enumerate(completions, 1):
        if arguments.continuations is not None and not arguments.json:
            print(f"--- {number} of {len(completions)}, {_told(completion.result)} ---")
            print(lead + completion.text, flush=True)
        if arguments.logprobs and not arguments.json:
            print(table(completion.logprobs), file=sys.stderr)
        if arguments.stats:
            print(stats(completion.text, completion.result), file=sys.stderr)
    if any(completion.result.finish_reason is FinishReason.DRAINING for completion in completions):
        raise CommandError("the server is stopping; the text ends early")
    return 0


def _print_json(prompt: str, completions: Sequence[Completion], *, several: bool) -> None:
    parts = {"completions": completions} if several else dataclasses.asdict(completions[0])
    print_json({"prompt": prompt, **parts})


def _told(result: Result) -> str:
    """Which continuation it is."""
    if result.resampled is None:
        return f"seed {result.seed}"
    return f"seed {result.seed}, weight {result.resampled.weight:.3f}"


@contextlib.contextmanager
def _source(client: Client, arguments: argparse.Namespace) -> Iterator[Client | Session]:
    """What goes on: the client, or the session that was asked for.

    A session that never existed is made, and deleted again if nothing comes of it; one that expired is not made again.
    """
    if arguments.session is None:
        yield client
        return
    try:
        session = client.open_session(arguments.session)
    except NotFound as problem:
        if problem.reason != "SESSION_NOT_FOUND":
            raise
    else:
        if arguments.adaptive and not session.info.adaptive:
            raise CommandError(
                f"session {arguments.session} is there already and does not learn; leave out --adaptive, or "
                "give another --session"
            )
        yield session
        return
    session = client.session(
        id=arguments.session, model=arguments.model, seed=arguments.seed, keep=True, adaptive=arguments.adaptive
    )
    print(f"a new session: {arguments.session}", file=sys.stderr)
    try:
        yield session
    except CharloomError:
        with contextlib.suppress(CharloomError):
            if session.refresh(timeout=CLEANUP).position == 0:
                session.delete(timeout=CLEANUP)
                print(f"the session {arguments.session} is deleted again, because nothing was read", file=sys.stderr)
        raise


def stats(text: str, result: Result) -> str:
    """One line of figures; times are the server's."""
    ending = result.finish_reason.value if result.stop is None else f"{result.finish_reason.value} at {result.stop!r}"
    speed = len(text) / result.timings.total if result.timings.total > 0 else 0.0
    return (
        f"{ending}: {result.usage.prompt_tokens} + {result.usage.completion_tokens} tokens, "
        f"{speed:,.0f} characters/s, first token after {result.timings.first_token * 1000:.1f} ms, "
        f"seed {result.seed}"
    )


def _stream(source: Client | Session, lead: str, prompt: str, options: GenerateOptions) -> Completion:
    with source.generate(prompt, **options) as stream:
        if lead:
            sys.stdout.write(lead)
            sys.stdout.flush()
        for text in stream:
            sys.stdout.write(text)
            sys.stdout.flush()
        completion = Completion(text=stream.text, result=stream.result(), logprobs=stream.logprobs)
    # A shell would otherwise put its prompt behind the text; a file gets the text and nothing else.
    if sys.stdout.isatty():
        sys.stdout.write("\n")
    sys.stdout.flush()
    return completion
