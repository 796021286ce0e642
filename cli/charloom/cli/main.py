"""The entry point: a table of commands, each imported only when it is asked for.

So `charloom generate` works where neither torch nor onnxruntime is installed, and no command pays for another.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from charloom.cli import CommandError
from charloom.cli.problems import silence_torchscript, words_of
from charloom.cli.thread_limit import ADVICE, REFUSED, check_threads, grpc_threads, numpy_threads


@dataclass(frozen=True)
class Command:
    """One command: its room, which holds a module of its name; what it needs installed; what it does."""

    room: str
    extra: str | None
    help: str

    @property
    def threads(self) -> int:
        """How many its libraries start when they are imported, or used first."""
        return (0 if self.room == "training" else grpc_threads()) + (0 if self.extra is None else numpy_threads())


COMMANDS = {
    "demo": Command("serving", "server", "serve the bundled model and stream a completion from it"),
    "play": Command("serving", "http", "serve the bundled model with a page that shows it at work"),
    "generate": Command("sessions", None, "stream text from a server"),
    "chat": Command("sessions", None, "type lines and let the model go on, state carried"),
    "sessions": Command("sessions", None, "list, copy, put back, move and delete sessions of a server"),
    "score": Command("sessions", None, "tell how probable a text is"),
    "peek": Command("sessions", None, "show what would come next, and how probable it is"),
    "rank": Command("sessions", None, "tell which of some texts is the most probable to come next"),
    "label": Command("sessions", None, "tell which label a classifier gives a text"),
    "watch": Command("sessions", None, "print the lines of a log that are unlike those before"),
    "suggest": Command("sessions", None, "show the most probable words, lines or texts of a constraint to come next"),
    "inspect": Command("sessions", "studies", "show what units of the network do while it reads a text"),
    "models": Command("serving", None, "list the models of a server; load, reload and unload them"),
    "health": Command("serving", None, "ask a server whether it serves; for probes"),
    "top": Command("serving", None, "show what a server does, again and again"),
    "bench": Command("serving", None, "load a server and tell how much text it gives, and how soon"),
    "serve": Command("serving", "server", "serve bundles over gRPC"),
    "doctor": Command("serving", "server", "tell what this machine offers a server, and how much text to expect"),
    "keys": Command("serving", "server", "make, list, replace and revoke the keys of who may call a server"),
    "tenants": Command("serving", None, "list, export and erase all that a server keeps of a tenant"),
    "sign": Command("serving", "server", "sign a bundle, for servers that serve signed ones only"),
    "train": Command("training", "training", "train a model on text"),
    "report": Command("training", "training", "write the page that shows a run, anew"),
    "evaluate": Command("training", "training", "validation loss of a run, by both protocols"),
    "classify": Command("training", "training", "train a classifier of texts, measure it, use it"),
    "export": Command("training", "training", "turn a run into a bundle that can be served"),
    "study": Command("training", "studies", "small experiments with LSTMs: what they remember, and how"),
}
LOGGING = ("play", "serve")
"""Those that have a log."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 130 after Ctrl-C."""
    _make_streams_usable()
    silence_torchscript()
    # gRPC's core would write lines of its own between ours, and a server's clients could have it write as many as they
    # like, with words of theirs. It reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    argv = sys.argv[1:] if argv is None else argv
    asked = next((word for word in argv if not word.startswith("-")), None)
    try:
        return _run(argv, asked)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (CommandError, OSError) as problem:
        said = words_of(problem)
    except RuntimeError as problem:
        if REFUSED not in str(problem):
            raise
        said = f"a thread could not be started; {ADVICE}"
    print(f"charloom {asked}: {said}", file=sys.stderr)
    return 1


def _make_streams_usable() -> None:
    """Let output begin, whatever it is connected to.

    A stream that the caller has closed (`>&-`) is connected to /dev/null, so that no file or socket takes its number.
    Characters that the encoding of the output lacks, as on an ASCII terminal, are written as escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
            if name != "stdin":  # a command that wants to read says that there is nothing to read from
                setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Version(argparse.Action):
    """Prints the version, which is looked up only then: a checkout that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # takes a tenth of what a command takes to start

        print(version("charloom"))
        parser.exit()


def _run(argv: Sequence[str], asked: str | None) -> int:
    parser = argparse.ArgumentParser(
        prog="charloom", description="Train character-level LSTMs and serve them over gRPC."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version of the program and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        parsers[name] = subparser
        if name == asked:
            check_threads(command.threads)
            try:
                module = importlib.import_module(f"charloom.cli.{command.room}.{name}")
            except ModuleNotFoundError as missing:
                if command.extra is None or (missing.name or "").startswith("charloom"):
                    raise
                print(
                    f"charloom {name} needs {missing.name}, which is not installed; "
                    f"run: pip install 'charloom[{command.extra}]'",
                    file=sys.stderr,
                )
                return 1
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parsers[arguments.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    _tell_of_variables(arguments.command)
    status: int = arguments.run(arguments)
    return status


def _tell_of_variables(name: str) -> None:
    """Warn of misspelt environment variables, unless the command does so in its log."""
    command = COMMANDS[name]
    if command.room == "training" or name in LOGGING:
        return
    from charloom.cli import variables

    unread = variables.unread_by_servers if command.extra == "server" else variables.unread_by_clients
    for said in unread():
        print(f"charloom {name}: {said}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
