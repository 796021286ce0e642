"""`charloom sessions ACTION`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import columns, print_json
from charloom.cli.text import add_skip_unknown, read_text, standard_input, unknown_characters
from charloom.client import Client, NotFound, SessionInfo

_HEADINGS = ("ID", "MODEL", "POSITION", "EARLIEST", "SEED", "ADAPTIVE", "EXPIRES", "FROM")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and the arguments of each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action in ACTIONS.items():
        one = actions.add_parser(name, help=action.help, description=action.help, allow_abbrev=False)
        if action.of_a_session:
            one.add_argument("id", metavar="ID", help="id of the session")
        action.add_arguments(one)
        if action.prints:
            one.add_argument("--json", action="store_true", help="print JSON instead of a table")
        add_connection_arguments(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    named = [getattr(arguments, "id", None), *(getattr(arguments, "ids", None) or ())]
    if "" in named:
        raise CommandError("the id of a session is empty; give one, or leave --id out")
    with connected(arguments) as client:
        ACTIONS[arguments.action].run(client, arguments)
    return 0


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Declare no further arguments."""


def _list(client: Client, arguments: argparse.Namespace) -> None:
    kept = list(client.kept_sessions())
    _print_all([one.info for one in kept if one.info is not None], arguments)
    for one in kept:
        if one.problem is not None:
            print(f"charloom sessions: {one.id} cannot be read: {one.problem}", file=sys.stderr)


def _show(client: Client, arguments: argparse.Namespace) -> None:
    _print_one(client.get_session(arguments.id), arguments)


def _delete(client: Client, arguments: argparse.Namespace) -> None:
    receipt = client.delete_session(arguments.id)
    if arguments.json:
        print_json(receipt)
    else:
        print(f"{receipt.session.id} is deleted; it stood at position {receipt.session.position}")


def _add_fork(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", type=int, metavar="POSITION", help="where to take it (default: where it stands)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many copies (default: 1)")
    parser.add_argument(
        "--id", dest="ids", action="append", metavar="ID", help="of a copy; once for each, or not at all"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the first copy, one more for each other (default: drawn for each)"
    )
    _add_seconds(parser, "how long each is kept without use (default: as the session itself)")


def _fork(client: Client, arguments: argparse.Namespace) -> None:
    copies = client.open_session(arguments.id).forks(
        arguments.count,
        position=arguments.at,
        seed=arguments.seed,
        ids=arguments.ids,
        time_to_live=arguments.seconds,
        keep=True,
    )
    _print_all([copy.info for copy in copies], arguments)


def _add_rewind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("position", type=int, metavar="POSITION", help="where to; what came after it is forgotten")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the random numbers from there on (default: as before)"
    )


def _rewind(client: Client, arguments: argparse.Namespace) -> None:
    _print_one(client.open_session(arguments.id).rewind(arguments.position, seed=arguments.seed), arguments)


def _add_move(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", help="to which model (default: the present version of its own, or the first one)"
    )
    add_skip_unknown(parser)


def _move(client: Client, arguments: argparse.Namespace) -> None:
    session = client.open_session(arguments.id)
    _print_one(session.move(arguments.model, unknown_characters=unknown_characters(arguments)), arguments)


def _add_renew(parser: argparse.ArgumentParser) -> None:
    _add_seconds(parser, "how long it is kept without use from now on (default: as before)")


def _renew(client: Client, arguments: argparse.Namespace) -> None:
    _print_one(client.open_session(arguments.id).renew(arguments.seconds), arguments)


def _add_feed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="text to read; - reads stdin")
    add_skip_unknown(parser)
    parser.add_argument("--create", action="store_true", help="make the session, which is not there yet")
    parser.add_argument("--model", metavar="NAME", help="with --create: its model (default: the server's first one)")
    parser.add_argument("--adaptive", action="store_true", help="with --create: let it learn from its text")
    _add_seconds(parser, "with --create: how long it is kept without use (default: the server's)")


def _feed(client: Client, arguments: argparse.Namespace) -> None:
    text, unknown = read_text(arguments.text), unknown_characters(arguments)
    of_new = {"model": arguments.model, "adaptive": arguments.adaptive or None, "seconds": arguments.seconds}
    if arguments.create:
        info = client.prime(
            arguments.id,
            text,
            model=arguments.model,
            time_to_live=arguments.seconds,
            adaptive=arguments.adaptive,
            unknown_characters=unknown,
        )
    elif given := [name for name, value in of_new.items() if value is not None]:
        raise CommandError(f"--{given[0]} is for a session that is made; give --create too, or leave it out")
    else:
        try:
            info = client.open_session(arguments.id).feed(text, unknown_characters=unknown)
        except NotFound as problem:
            raise CommandError(f"there is no session {arguments.id!r}; add --create to make it") from problem
    _print_one(info, arguments)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the state (default: stdout)")
    _add_seconds(parser, "how long the state can be used (default: the server's)")


def _export(client: Client, arguments: argparse.Namespace) -> None:
    if arguments.output is None and sys.stdout.isatty():
        raise CommandError("the state is no text for a terminal; give --output FILE, or send it to a file with >")
    sealed = client.open_session(arguments.id).export(arguments.seconds)
    if arguments.output is None:
        sys.stdout.buffer.write(sealed.state)
        sys.stdout.flush()
    else:
        arguments.output.write_bytes(sealed.state)
    print(f"{len(sealed.state):,} bytes, to be used before {_time(sealed.expires)}", file=sys.stderr)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what export wrote; - reads stdin")
    parser.add_argument("--id", metavar="ID", help="id of the new session (default: the server's choice)")
    _add_seconds(parser, "how long it is kept without use (default: the server's)")


def _import(client: Client, arguments: argparse.Namespace) -> None:
    state = standard_input("give a file").buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
    session = client.import_session(state, id=arguments.id, time_to_live=arguments.seconds, keep=True)
    _print_one(session.info, arguments)
    if not session.restored_exactly:
        print("this server has another decoder: the text may part from what it would have been", file=sys.stderr)


def _add_seconds(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--seconds", type=float, metavar="S", help=help)


@dataclass(frozen=True)
class _Action:
    help: str
    run: Callable[[Client, argparse.Namespace], None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _nothing
    of_a_session: bool = True
    prints: bool = True


ACTIONS = {
    "list": _Action("list all sessions", _list, of_a_session=False),
    "show": _Action("describe a session", _show),
    "delete": _Action("forget a session", _delete),
    "fork": _Action("make sessions that go on from where one stands, or stood", _fork, _add_fork),
    "rewind": _Action("put a session back to an earlier position", _rewind, _add_rewind),
    "move": _Action("let another model, or version, read a session's text and go on with it", _move, _add_move),
    "renew": _Action("put the expiry of a session off", _renew, _add_renew),
    "feed": _Action("let a session, or a new one, read a text", _feed, _add_feed),
    "export": _Action("write the state of a session, encrypted, to a file", _export, _add_export, prints=False),
    "import": _Action("make a session of such a file", _import, _add_import, of_a_session=False),
}


def _print_all(sessions: Sequence[SessionInfo], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(sessions)
    else:
        print(columns([_HEADINGS, *map(_row, sessions)]))


def _print_one(session: SessionInfo, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(session)
    else:
        print(columns([_HEADINGS, _row(session)]))


def _row(session: SessionInfo) -> tuple[str, ...]:
    return (
        session.id,
        session.model,
        str(session.position),
        str(session.earliest_position),
        str(session.seed),
        "yes" if session.adaptive else "no",
        _time(session.expire_time),
        _origin(session),
    )


def _origin(session: SessionInfo) -> str:
    """Which session it is a copy of, if of any; one that was made from the zero state, as a watch does, has none."""
    origin = session.origin
    if origin is None or not (origin.session_id or origin.position):
        return "-"
    return f"{origin.session_id or 'elsewhere'} at {origin.position}"


def _time(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
