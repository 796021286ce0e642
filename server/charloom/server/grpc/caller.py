"""Who makes a gRPC call: the one place that reads a call's metadata and its connection's address."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from charloom.engine.shares import Share
from charloom.server.caller import Caller, set_caller
from charloom.server.identity.gate import AUTHORIZATION_KEY, TENANT_KEY, Gate, Shown
from charloom.server.identity.scopes import Scope
from charloom.server.origins import Origins
from charloom.server.telemetry.calls import REQUEST_ID_KEY

FORWARDED_KEY = "x-forwarded-for"
"""Metadata in which each proxy adds the address that it was called from."""


class CallerReader:
    """Sets the caller of a call.

    Args:
        origins: whose share an address has, and which proxies are trusted
        gate: who may call
    """

    def __init__(self, origins: Origins, gate: Gate) -> None:
        self._origins = origins
        self._gate = gate

    @staticmethod
    def request_ids(context: Any) -> list[str]:
        """What a call says of its id."""
        return _values(context.invocation_metadata() or (), REQUEST_ID_KEY)

    def begin(self, context: Any, scope: Scope) -> None:
        """Set the caller of the call that runs in this task.

        Raises:
            CredentialsMissing, CredentialsInvalid, ScopeMissing, TenantNotAllowed, InvalidRequest: as `Gate.admit`.
        """
        metadata = context.invocation_metadata() or ()
        host, port = peer_address(context.peer())
        shown = Shown(
            tokens=_values(metadata, AUTHORIZATION_KEY),
            tenants=_values(metadata, TENANT_KEY),
            certificate=_certificate(context),
            trusted=self._origins.trusts(host),
        )
        identity = self._gate.admit(shown, scope)
        origin = self._origins.of(host, port, ",".join(_values(metadata, FORWARDED_KEY)))
        share = f"tenant {identity.tenant}" if identity.proven else origin
        set_caller(Caller(identity.tenant, Share(share)))


def _certificate(context: Any) -> list[str] | None:
    """The names in the client's certificate, which TLS has checked; None without one."""
    found = context.auth_context()
    if "x509_pem_cert" not in found:
        return None
    return [name.decode(errors="replace") for name in found.get("x509_subject_alternative_name", ())]


def peer_address(peer: str) -> tuple[str, int]:
    """Host and port of a connection, as gRPC names it (`ipv4:127.0.0.1:5000`); no host for a Unix socket."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return "", 0
    return host.strip("[]"), int(port)


def _values(metadata: Any, wanted: str) -> list[str]:
    return [str(value) for key, value in metadata if key == wanted]
