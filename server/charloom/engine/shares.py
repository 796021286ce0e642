"""Whose share of the engine a call uses.

A transport says so before the call reaches the engine, and whatever lets work in asks for it here. Work that nobody has
said it of is that of one caller.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from charloom.engine.quotas import UNLIMITED, Quota


class Share(NamedTuple):
    """A caller, as far as the engine divides itself between callers."""

    name: str = ""
    quota: Quota = UNLIMITED
    """What it may have at most, whatever others do."""


ONLY = Share()
"""Of the one caller that there is, where nobody tells callers apart."""

_share: ContextVar[Share] = ContextVar("share", default=ONLY)


def name_of_tenant(tenant: str) -> str:
    """The name of the share of a tenant; empty for the only one of a server that tells nobody apart."""
    return f"tenant {tenant}" if tenant else ""


def set_share(share: Share) -> None:
    """Say whose share the call that runs in this task uses."""
    _share.set(share)


def current_share() -> Share:
    """Whose share the call that runs in this task uses."""
    return _share.get()
