"""Who makes a call. A transport sets it before a service sees the call; services ask for it here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from charloom.engine.shares import ONLY, Share, set_share
from charloom.server.identity.errors import ScopeMissing
from charloom.server.identity.scopes import Scope


@dataclass(frozen=True)
class Caller:
    """Who makes a call."""

    tenant: str = ""
    """Whose sessions the call sees; empty for the only tenant of a server that has no others."""
    share: Share = ONLY
    """Whose share of the server it uses: that of the tenant where a credential proves it, else that of the address."""
    name: str = ""
    """Who it is, for people: the credential without its secret, or the address where nobody is asked."""
    scopes: frozenset[Scope] = frozenset(Scope)
    """What it may do; the scope of the call itself has been checked."""

    def require(self, scope: Scope) -> None:
        """See that the caller may do something that not every call of this kind does.

        Raises:
            ScopeMissing: it may not.
        """
        if scope not in self.scopes:
            raise ScopeMissing(scope.value)


_caller: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Say who makes the call that runs in this task, here and to the engine."""
    _caller.set(caller)
    set_share(caller.share)


def current_caller() -> Caller:
    """Who makes the call that runs in this task.

    Raises:
        LookupError: no transport has said so. There is no default: it would be somebody's tenant.
    """
    return _caller.get()
