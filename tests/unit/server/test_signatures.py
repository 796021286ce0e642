"""Signed bundles: what is believed, and what is not."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from charloom.bundle import Bundle, BundleError, read_bundle
from charloom.cli.main import main
from charloom.server.identity import signatures
from charloom.server.identity.signatures import (
    SIGNATURE_FILE,
    SigningProblem,
    new_signing_key,
    public_pem,
    read_signing_key,
    read_trusted_keys,
    require_signature,
    sign,
)
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    return read_bundle(tmp_path / "bundle")


def trusted(path: Path, *contents: bytes) -> Path:
    path.write_bytes(b"".join(contents))
    return path


def test_a_signed_bundle_is_served_and_the_key_file_is_secret(own: Bundle, tmp_path: Path) -> None:
    key, other = new_signing_key(tmp_path / "key.pem"), new_signing_key(tmp_path / "other.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    sign(own, read_signing_key(tmp_path / "key.pem"))
    keys = trusted(tmp_path / "trusted.pem", public_pem(other), b"a remark\n", public_pem(key))
    ((found, _),) = open_models([own.path], ServerSettings(trusted_keys=keys))
    assert found.manifest.digest == own.manifest.digest


def test_what_no_trusted_key_has_signed_is_not_served(own: Bundle, tmp_path: Path) -> None:
    key, other = new_signing_key(tmp_path / "key.pem"), new_signing_key(tmp_path / "other.pem")
    settings = ServerSettings(trusted_keys=trusted(tmp_path / "trusted.pem", public_pem(key)))
    with pytest.raises(BundleError, match=r"it is not signed: there is no manifest\.sig"):
        open_models([own.path], settings)
    sign(own, other)
    with pytest.raises(BundleError, match="is not one of a key that is trusted"):
        open_models([own.path], settings)
    (own.path / SIGNATURE_FILE).write_text("no signature")
    with pytest.raises(BundleError, match="cannot be read"):
        open_models([own.path], settings)


def test_the_signature_of_another_bundle_is_none(own: Bundle, tmp_path: Path) -> None:
    key = new_signing_key(tmp_path / "key.pem")
    renamed = own.manifest.model_copy(update={"name": "another"}).with_digest()
    sign(Bundle(own.path, renamed, own.vocabulary), key)
    with pytest.raises(BundleError, match="or of another state of it"):
        require_signature(own, [key.public_key()])


def test_nothing_is_left_of_a_signature_that_cannot_be_written(own: Bundle, tmp_path: Path) -> None:
    (own.path / SIGNATURE_FILE).mkdir()
    before = sorted(own.path.iterdir())
    with pytest.raises(OSError, match=SIGNATURE_FILE):
        sign(own, new_signing_key(tmp_path / "key.pem"))
    assert sorted(own.path.iterdir()) == before


def test_nothing_is_left_of_a_key_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int, mode: str) -> None:
        os.close(number)
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(signatures, "open", full, raising=False)
        with pytest.raises(OSError, match="the disk is full"):
            new_signing_key(tmp_path / "key.pem")
    assert not list(tmp_path.iterdir())
    new_signing_key(tmp_path / "key.pem")


def test_files_of_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    new_signing_key(tmp_path / "key.pem")
    with pytest.raises(SigningProblem, match="is there already"):
        new_signing_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(SigningProblem, match="chmod 600"):
        read_signing_key(tmp_path / "key.pem")
    curve = ec.generate_private_key(ec.SECP256R1())
    private = curve.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = curve.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "curve.pem").write_bytes(private)
    (tmp_path / "curve.pem").chmod(0o600)
    with pytest.raises(SigningProblem, match="is not of Ed25519"):
        read_signing_key(tmp_path / "curve.pem")
    with pytest.raises(SigningProblem, match="is not of Ed25519"):
        read_trusted_keys(trusted(tmp_path / "public.pem", public))
    with pytest.raises(SigningProblem, match="holds no public key"):
        read_trusted_keys(trusted(tmp_path / "public.pem", private))
    with pytest.raises(SigningProblem, match="cannot read"):
        read_trusted_keys(tmp_path / "none.pem")


def test_the_command_signs_and_prints_the_key_to_trust(
    own: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", str(own.path), "--new-key", str(tmp_path / "key.pem")]) == 0
    keys = trusted(tmp_path / "trusted.pem", capsys.readouterr().out.encode())
    assert open_models([own.path], ServerSettings(trusted_keys=keys))
    assert main(["sign", str(own.path), "--key", str(tmp_path / "key.pem")]) == 0
    assert main(["sign", str(own.path), "--new-key", str(tmp_path / "key.pem")]) == 1
    assert "is there already" in capsys.readouterr().err
