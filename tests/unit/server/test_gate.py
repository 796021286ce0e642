"""Who is let in: what a call shows, and what it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from charloom.engine.errors import EngineError, InvalidRequest
from charloom.engine.quotas import Quota
from charloom.server.identity.errors import CredentialsInvalid, CredentialsMissing, ScopeMissing, TenantNotAllowed
from charloom.server.identity.gate import EVERYTHING, Credentials, Gate, Identity
from charloom.server.identity.key_file import Certificate, KeyFile, TenantLimits, made
from charloom.server.identity.open_gate import gate_of
from charloom.server.identity.scopes import Scope
from charloom.server.identity.watched import Watched
from charloom.server.settings import ServerSettings

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
TEXT, KEY = made("shop", [Scope.READ, Scope.GENERATE], NOW, NOW + timedelta(days=1))
GONE_TEXT, GONE = made("shop", [Scope.READ], NOW, None)
OLD_TEXT, OLD = made("shop", [Scope.READ], NOW, NOW)
FILE = KeyFile(
    keys=(KEY, GONE.model_copy(update={"revoked": NOW}), OLD),
    certificates=(Certificate(name="svc.shop", tenant="shop", scopes=(Scope.INSPECT,)),),
)
KEYS: Watched[KeyFile] = Watched([Path("/none")], lambda: FILE, "keys")
CLOSED, OPEN = Gate(KEYS, now=lambda: NOW), Gate()


def token(text: str) -> Credentials:
    return Credentials(tokens=[f"Bearer {text}"])


def test_a_key_lets_its_tenant_in_with_its_scopes() -> None:
    scopes = frozenset({Scope.READ, Scope.GENERATE})
    assert CLOSED.admit(token(TEXT), Scope.READ) == Identity("shop", scopes, credential=f"key {KEY.id}")
    assert CLOSED.admit(Credentials(tokens=[f"bearer  {TEXT} "]), Scope.GENERATE).tenant == "shop"
    assert CLOSED.admit(Credentials([f"Bearer {TEXT}"], ["shop"]), Scope.READ).tenant == "shop"


@pytest.mark.parametrize(
    ("shown", "problem", "said"),
    [
        (Credentials(), CredentialsMissing, "give the key"),
        (token(TEXT[:-1]), CredentialsInvalid, "is not known here"),
        (token(""), CredentialsInvalid, "is not known here"),
        (token(GONE_TEXT), CredentialsInvalid, "is revoked"),
        (token(OLD_TEXT), CredentialsInvalid, "is expired"),
        (Credentials(tokens=[TEXT]), CredentialsInvalid, 'not "Bearer KEY"'),
        (Credentials(tokens=[f"Bearer {TEXT}"] * 2), CredentialsInvalid, "2 values"),
        (Credentials(certificate=["svc.other"]), CredentialsInvalid, "certificate"),
        (Credentials([f"Bearer {TEXT}"], ["other"]), TenantNotAllowed, "not those of the tenant"),
        (Credentials(tenants=["shop"]), CredentialsMissing, "give the key"),
        (Credentials([f"Bearer {TEXT}"], ["shop", "shop"]), InvalidRequest, "2 values"),
        (Credentials([f"Bearer {TEXT}"], ["a/b"]), InvalidRequest, "not allowed"),
    ],
)
def test_anything_else_is_refused(shown: Credentials, problem: type[EngineError], said: str) -> None:
    with pytest.raises(problem) as refused:
        CLOSED.admit(shown, Scope.READ)
    assert said in str(refused.value)
    assert TEXT[:-1] not in str(refused.value)


def test_a_scope_that_is_missing_is_named() -> None:
    with pytest.raises(ScopeMissing, match="your credentials do not have the scope admin") as refused:
        CLOSED.admit(token(TEXT), Scope.ADMIN)
    assert refused.value.facts == {"scope": "admin"}


def test_a_key_counts_before_a_certificate() -> None:
    found = CLOSED.admit(Credentials(certificate=["a", "svc.shop"]), Scope.INSPECT)
    assert (found.tenant, found.credential) == ("shop", "certificate svc.shop")
    with pytest.raises(CredentialsInvalid):
        CLOSED.admit(Credentials(tokens=["Bearer wrong"], certificate=["svc.shop"]), Scope.INSPECT)


def test_a_proxy_that_is_trusted_names_the_tenant() -> None:
    for gate in (OPEN, CLOSED):
        found = gate.admit(Credentials(tenants=["acme"], trusted=True), Scope.SESSIONS)
        assert found == Identity("acme", EVERYTHING - {Scope.ADMIN})
        with pytest.raises(ScopeMissing):
            gate.admit(Credentials(tenants=["acme"], trusted=True), Scope.ADMIN)
        shown = Credentials(tenants=["acme"], certificate=["proxy.example"], trusted=True)  # the proxy's own, for TLS
        assert gate.admit(shown, Scope.SESSIONS) == found
    with pytest.raises(CredentialsInvalid):
        CLOSED.admit(Credentials(tenants=["acme"], certificate=["proxy.example"]), Scope.READ)
    with pytest.raises(CredentialsInvalid):
        CLOSED.admit(Credentials(certificate=["proxy.example"], trusted=True), Scope.READ)
    with pytest.raises(CredentialsMissing):
        CLOSED.admit(Credentials(trusted=True), Scope.READ)
    with pytest.raises(CredentialsInvalid):  # a key that comes with the tenant is looked at all the same
        CLOSED.admit(Credentials(["Bearer wrong"], ["acme"], trusted=True), Scope.READ)


def test_a_server_that_asks_nobody_takes_no_tenant_from_a_stranger() -> None:
    found = OPEN.admit(Credentials(), Scope.ADMIN)
    assert (found.tenant, found.authenticated) == ("", False)
    with pytest.raises(TenantNotAllowed, match="--trust-proxy"):
        OPEN.admit(Credentials(tenants=["acme"]), Scope.READ)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, True),
        ({"host": "unix:/run/charloom"}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"http_port": 0, "http_host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"}, True),
    ],
)
def test_where_nobody_is_asked_only_the_operators_administer(settings: dict[str, Any], allowed: bool) -> None:
    gate = gate_of(ServerSettings(**settings))
    for scope in EVERYTHING - {Scope.ADMIN}:
        gate.admit(Credentials(), scope)
        gate.admit(Credentials(trusted=True), scope)
    with pytest.raises(ScopeMissing):  # a proxy forwards the calls of people who are not known here
        gate.admit(Credentials(trusted=True), Scope.ADMIN)
    if allowed:
        gate.admit(Credentials(), Scope.ADMIN)
    else:
        with pytest.raises(ScopeMissing, match=r"gives only to a key; .*charloom keys create"):
            gate.admit(Credentials(), Scope.ADMIN)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(KeyFile(keys=(KEY, OLD)).model_dump_json().replace(OLD.id, KEY.id)),
        lambda path: path.chmod(0o644),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.symlink_to("x" * 300)),
    ],
    ids=["malformed", "two keys with one id", "world-readable", "gone", "not to be looked up"],
)
def test_a_file_of_keys_that_is_spoilt_while_the_server_runs_lets_in_whom_it_did(
    spoil: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys.json"
    text, key = made("shop", [Scope.READ], NOW, None)
    path.touch(0o600)
    path.write_text(KeyFile(keys=(key,)).model_dump_json())
    gate = gate_of(ServerSettings(keys=path))
    assert gate.keys is not None
    spoil(path)
    for _ in range(3):
        gate.keys.look()
        assert gate.admit(token(text), Scope.READ).tenant == "shop"
    (record,) = caplog.records
    assert "the keys that changed cannot be used, and those before stay in use" in record.getMessage()
    assert str(path) in record.getMessage()


def test_a_file_of_keys_is_read_again_when_its_mode_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.touch(0o600)
    path.write_text("{}")
    gate = gate_of(ServerSettings(keys=path))
    assert gate.keys is not None
    text, key = made("shop", [Scope.READ], NOW, None)
    path.chmod(0o644)
    path.write_text(KeyFile(keys=(key,)).model_dump_json())
    gate.keys.look()
    with pytest.raises(CredentialsInvalid):
        gate.admit(token(text), Scope.READ)
    path.chmod(0o600)  # as the error in the log says
    gate.keys.look()
    assert gate.admit(token(text), Scope.READ).tenant == "shop"


def test_limits_are_those_of_the_tenant_and_where_it_has_none_those_of_the_server() -> None:
    limited = FILE.model_copy(update={"limits": (TenantLimits(tenant="shop", sessions=3),)})
    watched: Watched[KeyFile] = Watched([Path("/none")], lambda: limited, "keys")
    gate = Gate(watched, now=lambda: NOW, quota=Quota(sessions=10, calls=5))
    assert gate.quota_of(gate.admit(token(TEXT), Scope.READ)) == Quota(sessions=3, calls=5)
    assert gate.quota_of(Identity("other", EVERYTHING)) == gate.quota
    assert gate.quota_of(Identity("shop", EVERYTHING, authenticated=False)) == gate.quota, "anybody can say so"
    assert Gate(quota=Quota(calls=5)).quota_of(Identity("shop", EVERYTHING)) == Quota(calls=5)
