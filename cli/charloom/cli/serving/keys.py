"""`charloom keys ACTION`: who may call a server."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from charloom.cli import CommandError
from charloom.cli.output import columns
from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.checks import require_id
from charloom.server.audit import AuditLog, AuditLogUnavailable, More
from charloom.server.identity.key_file import (
    Certificate,
    Key,
    KeyFile,
    KeyFileEditor,
    KeyFileProblem,
    TenantLimits,
    made,
    read_key_file,
    utc_now,
)
from charloom.server.identity.scopes import Scope

FILE_VARIABLE, DEFAULT_FILE = "CHARLOOM_KEYS", "charloom-keys.json"
AUDIT_VARIABLE = "CHARLOOM_AUDIT_LOG"

_LIMITS = {
    "sessions": "most sessions",
    "session_bytes": "most bytes of its sessions when it makes another one",
    "calls": "most calls at a time, on each server",
    "tokens_per_second": "tokens read and generated a second, on average",
    "prompt_characters": "longest prompt",
}
"""The fields of `TenantLimits`, and what their flags say."""
_NONE = "none"
"""In place of a number: no limit of the tenant's own."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and the arguments of each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, act: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(act=act)
        one.add_argument(
            "--file",
            type=Path,
            default=Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE),
            help=f"the file of keys, as for charloom serve (default: ${FILE_VARIABLE}, or else {DEFAULT_FILE})",
        )
        if act is not _list:
            one.add_argument(
                "--audit-log",
                type=Path,
                default=os.environ.get(AUDIT_VARIABLE) or None,
                metavar="FILE",
                help=f"file to which lines are added for what is done (default: ${AUDIT_VARIABLE}, or else none)",
            )
        return one

    create = action("create", "make a key and print it, once", _create)
    _add_entry(create)
    create.add_argument("--expires", type=_duration, metavar="TIME", help="how long it is good (default: for ever)")
    rotate = action("rotate", "make a key for the same tenant and scopes, and let the old one end", _rotate)
    rotate.add_argument("id", metavar="ID", help="of the old key")
    rotate.add_argument(
        "--grace",
        type=_duration,
        default=timedelta(days=1),
        metavar="TIME",
        help="how long it is still good (default: 1d)",
    )
    rotate.add_argument(
        "--expires",
        type=_duration,
        metavar="TIME",
        help="how long the new one is good (default: as the old one)",
    )
    revoke = action("revoke", "let a key end now", _revoke)
    revoke.add_argument("id", metavar="ID", help="of the key")
    certificate = action("certificate", "let clients in by a name in their certificates", _certificate)
    certificate.add_argument("name", metavar="NAME", help="a subject alternative name: a host, a URI or an address")
    certificate.add_argument("--remove", action="store_true", help="let them in no longer")
    _add_entry(certificate, required=False)
    limits = action("limits", "set limits of a tenant, or show those of all", _limits)
    limits.add_argument("tenant", nargs="?", type=_tenant, metavar="TENANT", help="whose")
    for name, text in _LIMITS.items():
        kind = _float if name == "tokens_per_second" else _int
        help_text = f"{text}; {_NONE}: as many as charloom serve says"
        limits.add_argument("--" + name.replace("_", "-"), type=kind, metavar="NUMBER", help=help_text)
    limits.add_argument("--reset", action="store_true", help="forget all limits that this tenant has so far")
    limits.add_argument("--json", action="store_true", help="print JSON instead of a table")
    listing = action("list", "show the keys, without their secrets, names of certificates, limits", _list)
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_entry(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--tenant", required=required, type=_tenant, metavar="NAME", help="whose sessions are used")
    parser.add_argument(
        "--scopes",
        type=_scopes,
        default=(Scope.READ, Scope.GENERATE, Scope.SESSIONS),
        metavar="LIST",
        help=f"what may be done, with commas: {', '.join(Scope)} (default: read,generate,sessions)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    try:
        arguments.act(arguments)
    except (KeyFileProblem, AuditLogUnavailable) as problem:
        raise CommandError(str(problem)) from problem
    return 0


def _create(arguments: argparse.Namespace) -> None:
    now = utc_now()
    expires = None if arguments.expires is None else now + arguments.expires
    text, key = made(arguments.tenant, arguments.scopes, now, expires)
    with (
        _audited(arguments, "create-key", f"key {key.id}", of=key.tenant, scopes=_joined(key.scopes)),
        KeyFileEditor(arguments.file).editing(create=True) as file,
    ):
        file.content = file.content.model_copy(update={"keys": (*file.content.keys, key)})
    _tell(text, key, arguments.file)


def _rotate(arguments: argparse.Namespace) -> None:
    now = utc_now()
    with (
        _audited(arguments, "rotate-key", f"key {arguments.id}") as more,
        KeyFileEditor(arguments.file).editing() as file,
    ):
        old = _known(file.content, arguments.id, arguments.file)
        if old.state(now) != "active":
            raise CommandError(f"the key {old.id} is {old.state(now)} already; make one with charloom keys create")
        good_for = arguments.expires or (None if old.expires is None else old.expires - old.created)
        text, key = made(old.tenant, old.scopes, now, None if good_for is None else now + good_for)
        ends = now + arguments.grace if old.expires is None else min(old.expires, now + arguments.grace)
        ending = old.model_copy(update={"expires": ends})
        keys = tuple(ending if one.id == old.id else one for one in file.content.keys)
        file.content = file.content.model_copy(update={"keys": (*keys, key)})
        more |= {"of": old.tenant, "to": f"key {key.id}"}
    _tell(text, key, arguments.file)
    print(f"the key {old.id} is good until {ends.isoformat()}", file=sys.stderr)


def _revoke(arguments: argparse.Namespace) -> None:
    now = utc_now()
    with (
        _audited(arguments, "revoke-key", f"key {arguments.id}") as more,
        KeyFileEditor(arguments.file).editing() as file,
    ):
        old = _known(file.content, arguments.id, arguments.file)
        more["of"] = old.tenant
        if old.revoked is None:
            gone = old.model_copy(update={"revoked": now})
            keys = tuple(gone if one.id == old.id else one for one in file.content.keys)
            file.content = file.content.model_copy(update={"keys": keys})
    print(f"the key {arguments.id} is revoked; servers that use {arguments.file} take it no longer, within seconds")


def _certificate(arguments: argparse.Namespace) -> None:
    act = "remove-certificate" if arguments.remove else "let-in-certificate"
    with (
        _audited(arguments, act, f"certificate {arguments.name}", of=arguments.tenant or ""),
        KeyFileEditor(arguments.file).editing(create=not arguments.remove) as file,
    ):
        others = tuple(one for one in file.content.certificates if one.name != arguments.name)
        if arguments.remove:
            if len(others) == len(file.content.certificates):
                raise CommandError(f"{arguments.file} does not name {arguments.name}")
            made_entry: tuple[Certificate, ...] = ()
        elif arguments.tenant is None:
            raise CommandError("--tenant is missing; give the tenant that is meant by the certificate")
        else:
            made_entry = (Certificate(name=arguments.name, tenant=arguments.tenant, scopes=arguments.scopes),)
        file.content = file.content.model_copy(update={"certificates": (*others, *made_entry)})
    print(f"{arguments.name} is " + ("removed" if arguments.remove else f"let in as {arguments.tenant}"))


@contextmanager
def _audited(arguments: argparse.Namespace, act: str, on: str, **more: str) -> Iterator[More]:
    """Around a change of the file, which is not made where the audit log cannot be written."""
    if arguments.audit_log is None:
        yield {}
        return
    with closing(AuditLog(Path(arguments.audit_log))) as audit, audit.act(act, on, **more) as said:
        yield said


def _limits(arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name) for name in _LIMITS if getattr(arguments, name) is not None}
    if given or arguments.reset:
        _set_limits(arguments, given)
    content = read_key_file(arguments.file)
    shown = [one for one in content.limits if arguments.tenant in (None, one.tenant)]
    if arguments.json:
        print(json.dumps([one.model_dump(exclude_none=True) for one in shown]))
        return
    print(_table_of(shown))
    if arguments.tenant is not None and not shown:
        print(f"{arguments.tenant} has no limits of its own, only those of charloom serve", file=sys.stderr)


def _set_limits(arguments: argparse.Namespace, given: dict[str, float | str]) -> None:
    if arguments.tenant is None:
        raise CommandError("TENANT is missing; name the tenant whose limits these are")
    said = {name: most if isinstance(most, str) else f"{most:.15g}" for name, most in given.items()}
    with (
        _audited(arguments, "set-limits", f"tenant {arguments.tenant}", **said),
        KeyFileEditor(arguments.file).editing(create=True) as file,
    ):
        old = None if arguments.reset else file.content.limits_of(arguments.tenant)
        before = {} if old is None else old.model_dump(exclude={"tenant"}, exclude_none=True)
        kept = {name: most for name, most in (before | given).items() if most != _NONE}
        try:
            limits = TenantLimits(tenant=arguments.tenant, **kept)
        except ValidationError as problem:
            first = problem.errors(include_input=False)[0]
            flag = "--" + str(first["loc"][0]).replace("_", "-")
            raise CommandError(f"{flag}: {first['msg'].replace('Input', 'it')}") from problem
        others = tuple(one for one in file.content.limits if one.tenant != arguments.tenant)
        own = (limits,) if kept else ()
        file.content = file.content.model_copy(update={"limits": (*others, *own)})


def _list(arguments: argparse.Namespace) -> None:
    content, now = read_key_file(arguments.file), utc_now()
    if arguments.json:
        shown = content.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}})
        for key, entry in zip(content.keys, shown["keys"], strict=True):
            entry["state"] = key.state(now)
        print(json.dumps(shown))
        return
    rows = [
        (key.id, key.tenant, _joined(key.scopes), key.state(now), key.created.date().isoformat(), _day(key.expires))
        for key in content.keys
    ]
    print(columns([("ID", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES"), *rows]))
    if content.certificates:
        names = [(one.name, one.tenant, _joined(one.scopes)) for one in content.certificates]
        print(columns([("CERTIFICATE", "TENANT", "SCOPES"), *names]))
    if content.limits:
        print(_table_of(content.limits))


def _table_of(limits: Sequence[TenantLimits]) -> str:
    heads = ("TENANT", *(name.replace("_", " ").upper() for name in _LIMITS))
    values = [[getattr(one, name) for name in _LIMITS] for one in limits]
    rows = [
        (one.tenant, *("-" if most is None else f"{most:.15g}" for most in own))
        for one, own in zip(limits, values, strict=True)
    ]
    return columns([heads, *rows])


def _tell(text: str, key: Key, file: Path) -> None:
    print(text)
    until = "" if key.expires is None else f", until {key.expires.isoformat()}"
    print(
        f"key {key.id} of {key.tenant} for {_joined(key.scopes)}{until}; keep it now, {file} has only its hash",
        file=sys.stderr,
    )


def _known(content: KeyFile, key_id: str, file: Path) -> Key:
    for key in content.keys:
        if key.id == key_id:
            return key
    if content.certificate(key_id) is not None:
        raise CommandError(
            f"{key_id} is the name of a certificate, and no key; charloom keys certificate {shlex.quote(key_id)} "
            "--remove lets its clients in no longer"
        )
    raise CommandError(f"{file} has no key {key_id}; charloom keys list shows those that it has")


def _joined(scopes: Sequence[Scope]) -> str:
    return ",".join(scope.value for scope in scopes)


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else moment.date().isoformat()


def _tenant(text: str) -> str:
    try:
        require_id("tenant", text)
    except InvalidRequest as problem:
        raise argparse.ArgumentTypeError(problem.problem) from problem
    return text


def _int(text: str) -> int | str:
    return _NONE if text == _NONE else int(text)


def _float(text: str) -> float | str:
    return _NONE if text == _NONE else float(text)


_int.__name__, _float.__name__ = "int", "float"  # argparse names them where a text is none


def _scopes(text: str) -> tuple[Scope, ...]:
    names = [name for name in map(str.strip, text.split(",")) if name]
    known = [scope.value for scope in Scope]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no scope {name!r}; there are: {', '.join(known)}")
    if not names:
        raise argparse.ArgumentTypeError("name at least one scope")
    return tuple(Scope(name) for name in dict.fromkeys(names))


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    time = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if not timedelta(0) < time <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give a number with s, m, h or d, as 90d")
    return time
