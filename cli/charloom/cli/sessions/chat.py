"""`charloom chat`: type a line, the model goes on from it, and its state is carried from line to line."""

from __future__ import annotations

import argparse
import contextlib
import sys

from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.sessions.generate import add_generation_arguments, sampling_options
from charloom.cli.sessions.interrupts import Interrupts
from charloom.cli.text import standard_input
from charloom.client import Client, FinishReason, GenerateOptions, InvalidArgument, InvalidValue, NotFound, Session

HELP = """\
Each line you type is fed to the model, with a line break after it, and the model goes on.
Ctrl-C  stops the present answer
/reset  forgets everything and starts again
/help   shows this
/quit   ends, as does Ctrl-D"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_generation_arguments(parser, max_tokens=200)
    parser.add_argument("--adaptive", action="store_true", help="learn from the text of the chat, both sides of it")
    add_connection_arguments(parser, serverless=True)


def run(arguments: argparse.Namespace) -> int:
    """Chat until the input ends."""
    interactive = standard_input("a chat reads its lines from it").isatty() and sys.stdout.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` editing and a history
        _say("Type a line; /help for more.")
    options = sampling_options(arguments)
    with Interrupts() as interrupts, contextlib.ExitStack() as stack:
        with interrupts.raised():
            client = stack.enter_context(connected(arguments))
        return 0 if _chat(client, arguments, options, interactive, interrupts) else 1


def _chat(
    client: Client,
    arguments: argparse.Namespace,
    options: GenerateOptions,
    interactive: bool,
    interrupts: Interrupts,
) -> bool:
    """Whether the chat ended because the person wanted it to."""
    while True:
        with interrupts.postponed() as cancels:
            cancels(client.close)
            made = client.session(model=arguments.model, seed=arguments.seed, adaptive=arguments.adaptive)
        with made as session:
            while True:
                line = _read(interactive, interrupts)
                command = None if line is None else line.strip()
                if command is None or command == "/quit":
                    return True
                if command == "/reset":
                    _say("A new session.")
                    break
                if command.startswith("/"):
                    _say(HELP if command == "/help" else f"there is no {command}; /help shows what there is")
                    continue
                if not _answer(session, f"{line}\n", options, interactive, interrupts):
                    return False


def _read(interactive: bool, interrupts: Interrupts) -> str | None:
    """The next line without its line break, or `None` at the end of the input."""
    while True:
        try:
            with interrupts.raised():
                if interactive:
                    return input("> ")
                line = sys.stdin.readline()
                return line.removesuffix("\n") if line else None
        except EOFError:
            _say("")
            return None
        except UnicodeDecodeError as problem:
            _say(f"this line is not {problem.encoding}: {problem.reason}")
        except KeyboardInterrupt:
            if not interactive:
                raise
            _say("\nCtrl-D or /quit ends the chat.")


def _answer(session: Session, prompt: str, options: GenerateOptions, interactive: bool, interrupts: Interrupts) -> bool:
    """Stream one answer; whether the server is still there for another one."""
    try:
        with interrupts.postponed() as cancels, session.generate(prompt, **options) as stream:
            cancels(stream.cancel)
            for text in stream:
                sys.stdout.write(text)
                sys.stdout.flush()
            stopping = stream.result().finish_reason is FinishReason.DRAINING
    except KeyboardInterrupt:
        if not interactive:
            raise
        stopping = False
    except (InvalidArgument, InvalidValue) as problem:
        _say(str(problem))
        return True
    except NotFound as problem:
        _say(f"{problem}; /reset starts a new session")
        return True
    # The next line, of either side, begins on a line of its own.
    sys.stdout.write("\n")
    sys.stdout.flush()
    if stopping:
        _say("the server is stopping; the chat ends")
    return not stopping


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
