"""From the settings to the gate."""

from __future__ import annotations

from pathlib import Path

from charloom.server.identity.gate import EVERYTHING, Gate, Tokens
from charloom.server.identity.key_file import read_key_file
from charloom.server.identity.scopes import Scope
from charloom.server.identity.watched import Watched
from charloom.server.settings import ServerSettings


def gate_of(settings: ServerSettings) -> Gate:
    """The gate that the settings describe; its files are read again when they change.

    Raises:
        ValueError: one of them cannot be used now, or PyJWT is not installed.
    """
    path = settings.keys
    keys = None if path is None else Watched([path], lambda: read_key_file(path), "keys")
    # Callers count as operators if only this machine can connect, or if they have a certificate of the operator's CA.
    operators = settings.open_host() is None or settings.tls_client_ca is not None
    anybody = EVERYTHING if operators else EVERYTHING - {Scope.ADMIN}
    return Gate(keys, _tokens(settings), anybody, quota=settings.quota())


def _tokens(settings: ServerSettings) -> Tokens | None:
    where, issuer, audience = settings.jwt_keys, settings.jwt_issuer, settings.jwt_audience
    if where is None or issuer is None or audience is None:
        return None
    try:
        from charloom.server.identity.jwt_tokens import FileKeys, JwtTokens, UrlKeys
    except ModuleNotFoundError as missing:
        if missing.name != "jwt":
            raise
        raise ValueError("--jwt-keys needs PyJWT, which is not installed; run: pip install 'charloom[jwt]'") from None
    keys = UrlKeys(where) if where.startswith(("https:", "http:")) else FileKeys(Path(where))
    return JwtTokens(issuer, audience, keys)
