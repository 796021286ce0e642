"""TLS of the HTTP transport, by the certificates that gRPC has."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from charloom.server.identity.certificates import CertificateProblem, Certificates
from charloom.server.identity.watched import Watched
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)


def tls_context(certificates: Watched[Certificates], settings: ServerSettings) -> ssl.SSLContext:
    """A context in which each new connection uses the certificates that the files have at that time."""
    return _PresentContext(certificates, settings)


class _PresentContext(ssl.SSLContext):
    """Hands each connection to a context that is made anew when the certificates have changed."""

    def __new__(cls, *_: object) -> _PresentContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificates: Watched[Certificates], settings: ServerSettings) -> None:
        self._certificates, self._settings = certificates, settings
        self._used = certificates.value()
        self._present = _context(self._used, settings)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """The TLS side of a new connection.

        If the files are half replaced at this moment, the connection uses the old ones, and the next one tries again.
        """
        found = self._certificates.value()
        if found is not self._used:
            try:
                self._present, self._used = _context(found, self._settings), found
            except CertificateProblem as problem:
                log.warning("%s; a connection has the certificate from before", problem)
        return self._present.wrap_bio(*args, **kwargs)


def _context(certificates: Certificates, settings: ServerSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    assert settings.tls_cert is not None
    try:
        # Python reads a chain from files alone; `certificates` has just checked what they hold.
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if certificates.client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=certificates.client_authorities.decode())
    except (OSError, ValueError) as problem:
        raise CertificateProblem(f"{settings.tls_cert} cannot be used for HTTP: {problem}") from problem
    return context
