"""The caller of a gRPC call: the one place that reads a call's metadata and its connection's address."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from charloom.server.admission import FORWARDED_KEY, Admission, Arrival
from charloom.server.identity.gate import AUTHORIZATION_KEY, TENANT_KEY
from charloom.server.telemetry.calls import PROXY_REQUEST_ID_KEY, REQUEST_ID_KEY


def arrival_of(context: Any, admission: Admission) -> Arrival:
    """Read a call's credentials, headers and address.

    Args:
        context: context of the call
        admission: determines which headers and certificates are read
    """
    carriers, metadata = admission.carriers, context.invocation_metadata() or ()
    host, port = peer_address(context.peer())
    return Arrival(
        host,
        port,
        forwarded=_values(metadata, FORWARDED_KEY),
        tokens=_values(metadata, AUTHORIZATION_KEY),
        tenants=_values(metadata, TENANT_KEY),
        certificate=_certificate(context) if admission.certificates else None,
        request_ids=_values(metadata, REQUEST_ID_KEY) or _values(metadata, PROXY_REQUEST_ID_KEY),
        carried={key: value for key, value in metadata if key in carriers} if carriers else {},
    )


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
