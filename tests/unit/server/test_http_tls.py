"""The certificates that connections over HTTP get while their files are replaced."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from charloom.server.http.tls import tls_context
from charloom.server.identity.certificates import watched_certificates
from charloom.server.settings import ServerSettings
from tests.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(server: ssl.SSLContext, authority: Authority) -> bytes:
    """The certificate that a connection gets, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    trusting = ssl.create_default_context(cafile=str(authority.file))
    theirs = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    for side in (theirs, ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    certificate = theirs.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def test_a_file_that_is_half_replaced_keeps_the_certificate_before_only_until_it_is_whole(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = authority.issue("server", "localhost")
    settings = ServerSettings(tls_cert=chain, tls_key=key)
    certificates = watched_certificates(settings)
    assert certificates is not None
    context = tls_context(certificates, settings)
    before = shown(context, authority)
    authority.issue("server", "localhost")
    certificates.look()
    whole = key.read_bytes()
    key.write_text("half of it")
    assert shown(context, authority) == before
    assert "a connection has the certificate from before" in caplog.text
    key.write_bytes(whole)
    assert shown(context, authority) != before
