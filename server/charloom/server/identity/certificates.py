"""The certificate files of TLS, checked before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from charloom.server.identity.secret_files import require_secret
from charloom.server.identity.watched import Watched
from charloom.server.settings import ServerSettings


class CertificateProblem(ValueError):
    """A certificate file cannot be used. The message names the file."""


@dataclass(frozen=True)
class Certificates:
    """What a listener shows to its clients, and what theirs are checked against; all of it PEM."""

    chain: bytes
    """The server's certificate, then those between it and an authority that clients know."""
    key: bytes
    client_authorities: bytes | None
    """Who signs the certificates of clients; None: clients need none."""
    expires: datetime
    """When the server's certificate ends."""


def read_certificates(chain: Path, key: Path, client_authorities: Path | None) -> Certificates:
    """What certificate files hold.

    Args:
        chain: PEM file of the server's certificate and what leads to an authority
        key: PEM file of its private key
        client_authorities: PEM file of the authorities of clients' certificates

    Raises:
        CertificateProblem: a file cannot be read or is not what it should be, everybody can read the key, it is not the
            certificate's, or the certificate is not valid at this time.
    """
    require_secret(key, CertificateProblem)
    chain_pem, key_pem = _content(chain), _content(key)
    authorities_pem = None if client_authorities is None else _content(client_authorities)
    certificate = _certificates(chain, chain_pem)[0]
    if _public(_private_key(key, key_pem).public_key()) != _public(_public_key(chain, certificate)):
        raise CertificateProblem(f"the key in {key} is not the one of the certificate in {chain}")
    _check_time(chain, certificate)
    if client_authorities is not None and authorities_pem is not None:
        _certificates(client_authorities, authorities_pem)
    return Certificates(chain_pem, key_pem, authorities_pem, certificate.not_valid_after_utc)


def watched_certificates(settings: ServerSettings) -> Watched[Certificates] | None:
    """The certificates of the settings, read again when they change; None where the server has none.

    Raises:
        CertificateProblem: they cannot be used now.
    """
    chain, key, authorities = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if chain is None or key is None:
        return None
    paths = [chain, key, *([] if authorities is None else [authorities])]
    return Watched(paths, lambda: read_certificates(chain, key, authorities), "certificates")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise CertificateProblem(f"cannot read {path}: {problem.strerror}") from problem


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise CertificateProblem(f"{path} holds no certificate in PEM form ({problem})") from problem


def _private_key(path: Path, content: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError as problem:
        raise CertificateProblem(f"the key in {path} is encrypted; give one without a passphrase") from problem
    except ValueError as problem:
        raise CertificateProblem(f"{path} holds no private key in PEM form ({problem})") from problem
    except UnsupportedAlgorithm as problem:
        raise CertificateProblem(f"the key in {path} is of a kind that is not known here ({problem})") from problem


def _public_key(path: Path, certificate: x509.Certificate) -> PublicKeyTypes:
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise CertificateProblem(f"the certificate in {path} has a key that is not known here ({problem})") from problem


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _check_time(path: Path, certificate: x509.Certificate) -> None:
    now, begin, end = datetime.now(timezone.utc), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        raise CertificateProblem(f"the certificate in {path} expired at {end.isoformat()}; renew it")
    if now < begin:
        raise CertificateProblem(
            f"the certificate in {path} is valid from {begin.isoformat()} on; is this machine's clock right?"
        )
