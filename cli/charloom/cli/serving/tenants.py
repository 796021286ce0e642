"""`charloom tenants ACTION`: all that a server keeps of one tenant."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from charloom.cli import CommandError
from charloom.cli.connection import add_connection_arguments, connected
from charloom.cli.output import columns, print_json
from charloom.cli.text import standard_input
from charloom.client import ExportedSession, KeptSession, Tenant

_HEADINGS = ("ID", "MODEL", "POSITION", "EXPIRES", "PROBLEM")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and the arguments of each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, act: Callable[[Tenant, argparse.Namespace], int]) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(act=act)
        one.add_argument("name", metavar="TENANT", help="whose data; '' for callers who have no tenant")
        return one

    listing = action("list", "list all sessions of a tenant", _list)
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    export = action("export", "write all sessions of a tenant, a line of JSON each", _export)
    export.add_argument("--output", type=Path, metavar="FILE", help="where to write them (default: stdout)")
    export.add_argument(
        "--seconds", type=float, metavar="S", help="how long the states can be used (default: the server's)"
    )
    erase = action("erase", "erase all sessions of a tenant for good", _erase)
    erase.add_argument("--yes", action="store_true", help="do not ask")
    erase.add_argument("--json", action="store_true", help="print the receipt as JSON")
    for one in (listing, export, erase):
        add_connection_arguments(one)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    with connected(arguments) as client:
        status: int = arguments.act(client.tenant(arguments.name), arguments)
    return status


def _list(tenant: Tenant, arguments: argparse.Namespace) -> int:
    kept = list(tenant.sessions())
    if arguments.json:
        print_json(kept)
    else:
        print(columns([_HEADINGS, *map(_row, kept)]))
    return 0


def _row(kept: KeptSession) -> tuple[str, ...]:
    if kept.info is None:
        return (kept.id, "-", "-", "-", kept.problem or "-")
    info = kept.info
    return (info.id, info.model, str(info.position), info.expire_time.isoformat(timespec="seconds"), "-")


def _export(tenant: Tenant, arguments: argparse.Namespace) -> int:
    """1 where a session is not whole: all others are there."""
    count, problems = 0, 0
    with _opened(arguments.output) as file:
        for session in tenant.export(time_to_live=arguments.seconds):
            count += 1
            if session.problem is not None:
                problems += 1
                print(f"charloom tenants: {session.id} is not exported whole: {session.problem}", file=sys.stderr)
            print_json(_line(session), file)
    print(f"{_sessions(count)}, {problems} of them not whole", file=sys.stderr)
    return int(problems > 0)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """A new file for its owner alone: it holds what users wrote. Where the export fails there is none."""
    if path is None:
        yield sys.stdout
        return
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(opened, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _line(session: ExportedSession) -> dict[str, Any]:
    sealed = session.sealed
    return {
        "id": session.id,
        "info": session.info,
        "problem": session.problem,
        "text": session.text,
        "state": None if sealed is None else base64.b64encode(sealed.state).decode(),
        "state_expires": None if sealed is None else sealed.expires,
    }


def _erase(tenant: Tenant, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        if not tenant.name:
            raise CommandError("nothing was erased: the tenant without a name has none to type; give --yes")
        count = _sessions(sum(1 for _ in tenant.sessions()))
        print(f"Erase {count} of the tenant {tenant.name!r} for good? Type its name: ", end="", file=sys.stderr)
        sys.stderr.flush()
        typed = standard_input("give --yes").readline()
        if not typed or typed.rstrip("\n") != tenant.name:
            raise CommandError(
                "nothing was erased, because that is not its name; give --yes to erase without being asked"
            )
    receipt = tenant.erase()
    if arguments.json:
        print_json(receipt)
        return 0
    print(
        columns(
            [
                ("tenant", receipt.tenant),
                ("sessions", str(receipt.sessions)),
                ("bytes", str(receipt.bytes)),
                ("ids (SHA-256)", receipt.ids_sha256),
                ("erased", receipt.erased.isoformat()),
                ("request id", receipt.request_id),
            ]
        )
    )
    return 0


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"
