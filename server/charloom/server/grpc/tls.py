"""TLS of the gRPC transport."""

from __future__ import annotations

import grpc

from charloom.server.identity.certificates import Certificates
from charloom.server.identity.watched import Watched


def server_credentials(certificates: Watched[Certificates]) -> grpc.ServerCredentials:
    """Credentials for `add_secure_port`. Each handshake uses the certificates that the files have at that time."""
    used = certificates.value()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return new certificates if they have changed; gRPC calls it before each handshake, on a thread of its own."""
        nonlocal used
        before, used = used, certificates.value()
        return None if used is before else _configuration(used)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # gRPC takes None for "as before"; its stubs do not say so
        used.client_authorities is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], certificates.client_authorities
    )
