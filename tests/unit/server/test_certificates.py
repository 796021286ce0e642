"""Certificate files: what is refused, and what happens when they change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from charloom.server.identity.certificates import CertificateProblem, read_certificates, watched_certificates
from charloom.server.identity.watched import Watched
from charloom.server.settings import ServerSettings
from tests.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_with_its_key_is_read(authority: Authority) -> None:
    chain, key = authority.issue("server", "localhost")
    found = read_certificates(chain, key, authority.file)
    assert found.chain == chain.read_bytes()
    assert found.key == key.read_bytes()
    assert found.client_authorities == authority.file.read_bytes()


def refused(chain: Path, key: Path, authorities: Path | None = None) -> str:
    with pytest.raises(CertificateProblem) as problem:
        read_certificates(chain, key, authorities)
    return str(problem.value)


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    chain, key = authority.issue("server", "localhost", days=(-2, -1))
    assert f"the certificate in {chain} expired at" in refused(chain, key)


def test_a_certificate_of_the_future_is_refused(authority: Authority) -> None:
    chain, key = authority.issue("server", "localhost", days=(1, 2))
    assert "is this machine's clock right?" in refused(chain, key)


def test_the_key_of_another_certificate_is_refused(authority: Authority) -> None:
    (chain, _), (_, key) = authority.issue("one", "localhost"), authority.issue("other", "localhost")
    assert refused(chain, key) == f"the key in {key} is not the one of the certificate in {chain}"


@pytest.mark.parametrize("missing", ["chain", "key", "authorities"])
def test_a_file_that_is_not_there_is_named(authority: Authority, missing: str, tmp_path: Path) -> None:
    chain, key = authority.issue("server", "localhost")
    files = {"chain": chain, "key": key, "authorities": authority.file, missing: tmp_path / "none.pem"}
    assert refused(*files.values()) == f"cannot read {tmp_path / 'none.pem'}: No such file or directory"


@pytest.mark.parametrize("file", ["chain", "key", "authorities"])
def test_a_file_of_another_form_is_named(authority: Authority, file: str, tmp_path: Path) -> None:
    chain, key = authority.issue("server", "localhost")
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "text.pem").chmod(0o600)
    files = {"chain": chain, "key": key, "authorities": authority.file, file: tmp_path / "text.pem"}
    said = refused(*files.values())
    assert said.startswith(f"{tmp_path / 'text.pem'} holds no ")
    assert "in PEM form" in said


def test_an_encrypted_key_is_refused(authority: Authority) -> None:
    chain, key = authority.issue("server", "localhost")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "give one without a passphrase" in refused(chain, key)


def test_a_key_that_everybody_can_read_is_refused(authority: Authority) -> None:
    chain, key = authority.issue("server", "localhost")
    key.chmod(0o644)
    assert f"run: chmod 600 {key}" in refused(chain, key)
    key.chmod(0o640)  # a group may, as in a container
    assert read_certificates(chain, key, None)


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (serialization, "load_pem_private_key", "is of a kind that is not known here"),
        (x509, "load_pem_x509_certificates", "holds no certificate"),
    ],
)
def test_what_is_of_an_unknown_kind_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, module: object, name: str, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UnsupportedAlgorithm("of a curve")

    chain, key = authority.issue("server", "localhost")
    monkeypatch.setattr(module, name, fail)
    assert said in refused(chain, key)


def test_what_was_read_before_stays_whatever_is_wrong_with_the_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> str:
        if path.read_text() == "new":
            raise UnsupportedAlgorithm("of a curve")
        return path.read_text()

    path = tmp_path / "file"
    path.write_text("before")
    watched = Watched([path], read, "keys")
    path.write_text("new")
    watched.look()
    assert watched.value() == "before"
    assert "the keys that changed cannot be used, and those before stay in use" in caplog.text


def test_a_server_without_certificates_has_none() -> None:
    assert watched_certificates(ServerSettings()) is None


def test_changed_files_are_used_and_broken_ones_are_not(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chain, key = authority.issue("server", "localhost")
    watched = watched_certificates(ServerSettings(tls_cert=chain, tls_key=key))
    assert watched is not None
    first = watched.value()
    watched.look()
    assert watched.value() is first
    chain, key = authority.issue("server", "localhost")
    watched.look()
    second = watched.value()
    assert (second.chain, second.key) == (chain.read_bytes(), key.read_bytes())
    key.write_text("broken")
    for _ in range(3):
        watched.look()
    assert watched.value() is second
    key.unlink()
    watched.look()
    assert watched.value() is second
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0].split(":")[0] for line in told] == [
        "the certificates have changed and are in use",
        "the certificates that changed cannot be used",
        "the certificates that changed cannot be used",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_cert": "a"}, "--tls-cert is given without --tls-key"),
        ({"tls_key": "a"}, "--tls-key is given without --tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-client-ca is given without"),
    ],
)
def test_settings_that_are_half_of_tls_are_refused(given: dict[str, Path], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ServerSettings(**given)  # type: ignore[arg-type]
