"""A client's identity and the protection of its connection: TLS credentials, and the metadata of each call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import grpc

from charloom.client import _target, _values
from charloom.client._errors import InvalidValue

_TENANT, _AUTHORIZATION = "charloom-tenant", "authorization"


class Access(NamedTuple):
    """What a channel and its calls carry."""

    credentials: grpc.ChannelCredentials | None
    """TLS credentials; None: the connection is not encrypted."""
    metadata: tuple[tuple[str, str], ...]
    """Metadata of every call."""


def access(
    target: str,
    *,
    tenant: str | None = None,
    token: str | None = None,
    tls: bool | None = None,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> Access:
    """Check the arguments of `Client` about identity and TLS, and make credentials and metadata of them."""
    metadata = []
    if tenant is not None:
        metadata.append((_TENANT, _values.printable("tenant", tenant)))
    if token is not None:
        if not _values.printable("token", token).strip():
            raise InvalidValue("token", "it is empty; give the key that the server's operator made, or leave it out")
        metadata.append((_AUTHORIZATION, f"Bearer {token.strip()}"))
    if (cert is None) != (key is None):
        raise InvalidValue(*("key", "cert needs it") if key is None else ("cert", "key needs it"))
    named = {"ca": ca, "cert": cert, "key": key}
    if credentials is None:
        given = any(path is not None for path in named.values())
        if tls is False and given:
            raise InvalidValue("tls", "it is False, and there are certificates; leave one or the other out")
        # A key must not cross a network in the clear because somebody forgot an argument.
        if tls or given or (tls is None and token is not None and not _target.is_local(target)):
            credentials = grpc.ssl_channel_credentials(*(_content(name, named[name]) for name in ("ca", "key", "cert")))
    elif tls is not None or any(path is not None for path in named.values()):
        raise InvalidValue("credentials", "they already say what tls, ca, cert and key do; leave those out")
    return Access(credentials, tuple(metadata))


def _content(field: str, path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise InvalidValue(field, f"cannot read {os.fspath(path)}: {problem.strerror}") from problem
    if b"-----BEGIN " not in content:
        raise InvalidValue(field, f"{os.fspath(path)} is not in PEM form")
    return content
