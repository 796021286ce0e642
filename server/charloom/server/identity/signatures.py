"""Signatures of bundles: Ed25519 over the digest of the manifest.

The digest covers the manifest, and the manifest contains the hash of every file.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from charloom.bundle import Bundle, BundleError, read_bundle
from charloom.server.identity.replacement import replacement_of
from charloom.server.identity.secret_files import require_secret

SIGNATURE_FILE = "manifest.sig"
_SIGNED = b"charloom bundle signature 1\n"
"""Prefix of the signed bytes, so that a signature of anything else cannot pass as one of a bundle."""
_LONGEST = 4096


class SigningProblem(ValueError):
    """A file of signing keys cannot be used. The message names the file."""


def new_signing_key(path: Path) -> Ed25519PrivateKey:
    """A private key, written to a file that only its owner can read.

    Raises:
        SigningProblem: the file is there already.
        OSError: it cannot be written; nothing is left of it.
    """
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as problem:
        raise SigningProblem(f"{path} is there already; name another file, or sign with --key {path}") from problem
    try:
        with open(number, "wb") as file:
            file.write(content)
    except BaseException:
        path.unlink()
        raise
    return key


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        SigningProblem: there is none, or everybody can read it.
    """
    require_secret(path, SigningProblem)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as problem:
        raise SigningProblem(f"cannot read {path}: {problem.strerror}") from problem
    except TypeError as problem:
        raise SigningProblem(f"the key in {path} is encrypted; give one without a passphrase") from problem
    except ValueError as problem:
        raise SigningProblem(f"{path} holds no private key in PEM form") from problem
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningProblem(f"the key in {path} is not of Ed25519; make one with charloom sign --new-key FILE")
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public half of a key, as `read_trusted_keys` takes it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_trusted_keys(path: Path) -> list[Ed25519PublicKey]:
    """The public keys in a PEM file, one after the other.

    Raises:
        SigningProblem: there is none, or one is not of Ed25519.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise SigningProblem(f"cannot read {path}: {problem.strerror}") from problem
    end = b"-----END PUBLIC KEY-----"
    keys = []
    for part in content.split(end)[:-1]:
        try:
            key = serialization.load_pem_public_key(part.strip() + b"\n" + end + b"\n")
        except ValueError as problem:
            raise SigningProblem(f"{path} holds something else than public keys in PEM form") from problem
        if not isinstance(key, Ed25519PublicKey):
            raise SigningProblem(f"a key in {path} is not of Ed25519; charloom sign makes those")
        keys.append(key)
    if not keys:
        raise SigningProblem(f"{path} holds no public key in PEM form")
    return keys


def sign(bundle: Bundle, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a bundle into its folder; returns the file.

    Raises:
        OSError: it cannot be written.
    """
    signature = base64.b64encode(key.sign(_message(bundle))) + b"\n"
    path = bundle.path / SIGNATURE_FILE
    with replacement_of(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(signature)
    return path


def require_signature(bundle: Bundle, trusted: list[Ed25519PublicKey]) -> None:
    """Check that one of the trusted keys has signed a bundle.

    Raises:
        BundleError: none has.
    """
    path = bundle.path / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            signature = base64.b64decode(file.read(_LONGEST).strip(), validate=True)
    except FileNotFoundError as problem:
        raise BundleError(
            bundle.path, f"it is not signed: there is no {SIGNATURE_FILE}", "sign it with charloom sign"
        ) from problem
    except (OSError, binascii.Error) as problem:
        raise BundleError(bundle.path, f"the file {SIGNATURE_FILE} cannot be read: {problem}") from problem
    for key in trusted:
        try:
            key.verify(signature, _message(bundle))
        except InvalidSignature:
            continue
        return
    raise BundleError(
        bundle.path, f"the signature in {SIGNATURE_FILE} is not one of a key that is trusted, or of another state of it"
    )


def read_trusted_bundle(path: Path, trusted_keys: Path | None) -> Bundle:
    """Open a bundle like `read_bundle`, and check its signature.

    Args:
        path: path of the bundle
        trusted_keys: file of the trusted keys; None: no signature is needed

    Raises:
        BundleError: the bundle cannot be used, or no trusted key has signed it.
        SigningProblem: the file of keys cannot be used.
    """
    trusted = None if trusted_keys is None else read_trusted_keys(trusted_keys)
    bundle = read_bundle(path)
    if trusted is not None:
        require_signature(bundle, trusted)
    return bundle


def _message(bundle: Bundle) -> bytes:
    return _SIGNED + bytes.fromhex(bundle.manifest.digest)
