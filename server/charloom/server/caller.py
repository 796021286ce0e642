"""The caller of a call. A transport sets it before a service sees the call; services read it here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from charloom.engine.shares import ONLY, Share, set_share
from charloom.server.identity.errors import ScopeMissing
from charloom.server.identity.scopes import Scope


@dataclass(frozen=True)
class Caller:
    """The caller of a call."""

    tenant: str = ""
    """The tenant whose sessions the call sees; empty on a server without tenants."""
    share: Share = ONLY
    """The share of the server that it uses: of the tenant if a credential proves it, else of the address."""
    name: str = ""
    """Its name for people: the credential without its secret, or the address if the server asks for no credentials."""
    scopes: frozenset[Scope] = frozenset(Scope)
    """What it may do; the scope that the method needs has been checked already."""

    def require(self, scope: Scope) -> None:
        """Check a scope that only some calls of the method need.

        Raises:
            ScopeMissing: the caller does not have it.
        """
        if scope not in self.scopes:
            raise ScopeMissing(scope.value)


_caller: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Set the caller of the call that runs in this task, here and in the engine."""
    _caller.set(caller)
    set_share(caller.share)


def current_caller() -> Caller:
    """Return the caller of the call that runs in this task.

    Raises:
        LookupError: no transport has set it. There is no default, because it would be somebody's tenant.
    """
    return _caller.get()
