"""Who makes a gRPC call: the one place that reads a call's metadata and its connection's address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.checks import require_id
from charloom.engine.shares import Share
from charloom.server.caller import Caller, set_caller
from charloom.server.origins import Origins

TENANT_KEY = "charloom-tenant"
"""Metadata that names the tenant. Nothing here proves it: whoever lets calls in from outside has to set it."""
FORWARDED_KEY = "x-forwarded-for"
"""Metadata in which each proxy adds the address that it was called from."""


class CallerReader:
    """Sets the caller of a call.

    Args:
        origins: whose share an address has
    """

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def begin(self, context: Any) -> None:
        """Set the caller of the call that runs in this task.

        Raises:
            InvalidRequest: the tenant's name is malformed, or there are several.
        """
        metadata = context.invocation_metadata() or ()
        host, port = peer_address(context.peer())
        forwarded = ",".join(_values(metadata, FORWARDED_KEY))
        set_caller(Caller(_tenant(_values(metadata, TENANT_KEY)), Share(self._origins.of(host, port, forwarded))))


def peer_address(peer: str) -> tuple[str, int]:
    """Host and port of a connection, as gRPC names it (`ipv4:127.0.0.1:5000`); no host for a Unix socket."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return "", 0
    return host.strip("[]"), int(port)


def _values(metadata: Any, wanted: str) -> list[str]:
    return [str(value) for key, value in metadata if key == wanted]


def _tenant(named: Sequence[str]) -> str:
    if not named:
        return ""
    if len(named) > 1:  # a proxy that appends has left the client's own: neither can be trusted
        raise InvalidRequest(
            TENANT_KEY, f"the call has {len(named)} values; give one, and let a proxy in front replace the client's own"
        )
    require_id(TENANT_KEY, named[0])
    return named[0]
