"""Finds environment variables that are meant for Charloom but that no part of it reads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence

PREFIX = "CHARLOOM_"
NEAR = 0.8
"""Similarity, from 0 to 1, from which on a variable may be a misspelling of a known one."""
OF_CLIENTS = {name: PREFIX + name.upper() for name in ("target", "tls", "ca", "cert", "key", "token", "tenant")}
"""Of each argument of a command that calls a server."""
OF_FILES = ("CHARLOOM_AUDIT_LOG", "CHARLOOM_CONFIG", "CHARLOOM_KEYS")
"""Of files of a server, which commands without its settings read too, or which are like a variable of theirs."""
OF_TESTS = ("CHARLOOM_RELOADS", "CHARLOOM_SCHEDULES", "CHARLOOM_VENV")
"""Read by this project's tests and scripts."""


def unread_by_servers() -> Iterator[str]:
    """Yield a warning for each variable that neither a server nor another part reads; needs the extra `server`."""
    if not _ours():
        return  # and import nothing
    from charloom.server.settings import ServerSettings
    from charloom.server.variables import is_service_link

    settings = [PREFIX + name.upper() for name in ServerSettings.model_fields]
    known = (*settings, *OF_CLIENTS.values(), *OF_FILES)
    for name in _unknown(known):
        if not is_service_link(name, os.environ[name]):
            near = _near(name, known)
            yield f"{name} is not a setting" + (f"; did you mean {near}?" if near else "")


def unread_by_clients() -> Iterator[str]:
    """Yield a warning for each variable that may be a client's, misspelt. Others may be a server's."""
    for name in _unknown((*OF_CLIENTS.values(), *OF_FILES)):
        if near := _near(name, [*OF_CLIENTS.values()]):
            yield f"{name} is not a setting; did you mean {near}?"


def _unknown(known: Sequence[str]) -> list[str]:
    """Names, sorted; their case makes no difference to settings."""
    return [name for name in _ours() if name.upper() not in (*known, *OF_TESTS)]


def _ours() -> list[str]:
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX))


def _near(name: str, known: Sequence[str]) -> str | None:
    """Which of them a name may be, misspelt."""
    words = [one.removeprefix(PREFIX) for one in known]
    found = difflib.get_close_matches(name.upper().removeprefix(PREFIX), words, n=1, cutoff=NEAR)
    return PREFIX + found[0] if found else None
