"""The caller of the call that runs in a task, between whom the engine is divided: a *share*.

A transport sets the share before the call reaches the engine, and the code that admits work reads it here. All work
without a share counts as one caller's.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from charloom.engine.quotas import UNLIMITED, Quota


class Share(NamedTuple):
    """A caller, between whom the engine is divided."""

    name: str = ""
    quota: Quota = UNLIMITED
    """Its own limits, whatever others do."""


ONLY = Share()
"""The share of all work for which none was set."""

_share: ContextVar[Share] = ContextVar("share", default=ONLY)


def name_of_tenant(tenant: str) -> str:
    """The name of a tenant's share; empty without a tenant."""
    return f"tenant {tenant}" if tenant else ""


def set_share(share: Share) -> None:
    """Set the share of the call that runs in this task."""
    _share.set(share)


def current_share() -> Share:
    """The share of the call that runs in this task."""
    return _share.get()
