"""`charloom keys`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from charloom.cli.main import main
from charloom.server.identity.key_file import TenantLimits, read_key_file, utc_now

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("CHARLOOM_KEYS", str(path))
    return path


@pytest.fixture
def run(file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def keys(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(["keys", *arguments])
        except SystemExit as end:
            status = int(str(end.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return keys


def test_a_key_is_made_and_printed_once(run: Run, file: Path) -> None:
    status, out, err = run("create", "--tenant", "shop", "--scopes", "generate,read", "--expires", "90d")
    text = out.strip()
    (key,) = read_key_file(file).keys
    assert status == 0
    assert read_key_file(file).key(text) == key
    assert (key.tenant, [*key.scopes]) == ("shop", ["generate", "read"])
    assert key.expires is not None
    assert key.expires - key.created == timedelta(days=90)
    assert text not in err
    assert f"key {key.id} of shop for generate,read, until" in err
    for arguments in (("list",), ("list", "--json")):
        status, out, _ = run(*arguments)
        assert status == 0
        assert key.id in out
        assert key.sha256 not in out
        assert text not in out


def test_a_key_is_replaced_and_the_old_one_ends_later(run: Run, file: Path) -> None:
    run("create", "--tenant", "shop", "--scopes", "inspect", "--expires", "10d")
    (old,) = read_key_file(file).keys
    status, out, err = run("rotate", old.id, "--grace", "1h")
    ended, fresh = read_key_file(file).keys
    assert status == 0
    assert read_key_file(file).key(out.strip()) == fresh
    assert (fresh.tenant, fresh.scopes) == (old.tenant, old.scopes)
    assert fresh.expires is not None
    assert fresh.expires - fresh.created == timedelta(days=10)
    assert ended.expires is not None
    assert ended.expires - utc_now() <= timedelta(hours=1)
    assert f"the key {old.id} is good until" in err


def test_a_key_is_revoked_once(run: Run, file: Path) -> None:
    run("create", "--tenant", "shop")
    (key,) = read_key_file(file).keys
    assert run("revoke", key.id)[0] == 0
    assert run("revoke", key.id)[0] == 0
    (gone,) = read_key_file(file).keys
    assert gone.state(utc_now()) == "revoked"
    status, _, err = run("rotate", key.id)
    assert status == 1
    assert err == f"charloom keys: the key {key.id} is revoked already; make one with charloom keys create\n"


def test_names_of_certificates_are_added_replaced_and_removed(run: Run, file: Path) -> None:
    assert run("certificate", "svc.shop", "--tenant", "a")[0] == 0
    assert run("certificate", "svc.shop", "--tenant", "b", "--scopes", "read")[0] == 0
    (entry,) = read_key_file(file).certificates
    assert (entry.name, entry.tenant, [*entry.scopes]) == ("svc.shop", "b", ["read"])
    assert "svc.shop" in run("list")[1]
    assert run("certificate", "svc.shop", "--remove")[0] == 0
    assert read_key_file(file).certificates == ()
    assert run("certificate", "svc.shop", "--remove")[0] == 1
    assert run("certificate", "svc.shop")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create",), "--tenant"),
        (("create", "--tenant", "a/b"), "'a/b' is not allowed"),
        (("create", "--tenant", "a", "--scopes", "read,all"), "there is no scope 'all'; there are: read, generate"),
        (("create", "--tenant", "a", "--scopes", ","), "name at least one scope"),
        (("create", "--tenant", "a", "--expires", "0d"), "'0d' is no time"),
        (("create", "--tenant", "a", "--expires", "999999999d"), "is no time"),
        (("revoke", "00000000"), "charloom keys create makes it"),
        (("list",), "charloom keys create makes it"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, arguments: tuple[str, ...], said: str, file: Path) -> None:
    status, out, err = run(*arguments)
    assert status
    assert said in err
    assert out == ""
    assert not file.exists()


def test_the_json_list_has_the_states(run: Run) -> None:
    run("create", "--tenant", "shop")
    (key,) = json.loads(run("list", "--json")[1])["keys"]
    assert (key["tenant"], key["state"]) == ("shop", "active")


def test_what_is_done_is_in_the_audit_log_without_the_secret(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = tmp_path / "audit.jsonl"
    monkeypatch.setenv("CHARLOOM_AUDIT_LOG", str(audit))
    _, text, _ = run("create", "--tenant", "shop")
    key_id = text.split("_")[1]
    _, other, _ = run("rotate", key_id)
    run("revoke", key_id)
    run("certificate", "svc.shop", "--tenant", "shop")
    run("certificate", "svc.shop", "--remove")
    run("list")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["act"], line["on"]) for line in lines if line["result"] == "done"] == [
        ("create-key", f"key {key_id}"),
        ("rotate-key", f"key {key_id}"),
        ("revoke-key", f"key {key_id}"),
        ("let-in-certificate", "certificate svc.shop"),
        ("remove-certificate", "certificate svc.shop"),
    ]
    assert all(line["by"].startswith("user ") for line in lines)
    for secret in (text, other):
        assert secret.strip().rpartition("_")[2] not in audit.read_text()


def test_nothing_is_done_where_the_audit_log_cannot_be_written(run: Run, file: Path, tmp_path: Path) -> None:
    run("create", "--tenant", "shop")
    before = file.read_bytes()
    (key,) = read_key_file(file).keys
    for arguments in (("create", "--tenant", "a"), ("rotate", key.id), ("revoke", key.id)):
        status, out, err = run(*arguments, "--audit-log", str(tmp_path))
        assert (status, out) == (1, "")
        assert "nothing was done, because the audit log cannot be written" in err
    assert file.read_bytes() == before


def test_limits_are_set_one_by_one_shown_and_forgotten(run: Run, file: Path) -> None:
    assert run("limits", "shop", "--sessions", "100", "--calls", "8")[0] == 0
    status, out, _ = run("limits", "shop", "--calls", "4")
    assert status == 0
    assert read_key_file(file).limits == (TenantLimits(tenant="shop", sessions=100, calls=4),)
    head, line = out.splitlines()
    assert head.split()[:2] == ["TENANT", "SESSIONS"]
    assert line.split() == ["shop", "100", "-", "4", "-", "-"]
    run("limits", "bank", "--prompt-characters", "1000", "--tokens-per-second", "0.5")
    shown = json.loads(run("limits", "--json")[1])
    assert shown == [
        {"tenant": "shop", "sessions": 100, "calls": 4},
        {"tenant": "bank", "tokens_per_second": 0.5, "prompt_characters": 1000},
    ]
    run("create", "--tenant", "shop")
    assert line in run("list")[1].splitlines()
    assert run("limits", "shop", "--reset", "--session-bytes", "5000")[0] == 0
    assert read_key_file(file).limits_of("shop") == TenantLimits(tenant="shop", session_bytes=5000)
    status, _, err = run("limits", "shop", "--reset")
    assert status == 0
    assert err == "shop has no limits of its own, only those of charloom serve\n"
    assert [one.tenant for one in read_key_file(file).limits] == ["bank"]


def test_a_single_limit_is_taken_back(run: Run, file: Path) -> None:
    run("limits", "shop", "--sessions", "100", "--tokens-per-second", "0.5")
    status, out, _ = run("limits", "shop", "--tokens-per-second", "none")
    assert (status, "100" in out, "0.5" in out) == (0, True, False)
    assert read_key_file(file).limits == (TenantLimits(tenant="shop", sessions=100),)
    status, _, err = run("limits", "shop", "--sessions", "none", "--calls", "none")
    assert (status, err) == (0, "shop has no limits of its own, only those of charloom serve\n")
    assert read_key_file(file).limits == ()


@pytest.mark.parametrize("action", ["revoke", "rotate"])
def test_who_takes_a_certificate_for_a_key_is_told_how_to_remove_it(run: Run, action: str) -> None:
    run("certificate", "worker.example", "--tenant", "shop")
    status, _, err = run(action, "worker.example")
    assert status == 1
    assert "charloom keys certificate worker.example --remove" in err
    assert run("certificate", "worker.example", "--remove")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("limits", "--sessions", "1"), "TENANT is missing"),
        (("limits", "shop", "--sessions", "0"), "--sessions: it should be greater than or equal to 1"),
        (("limits", "shop", "--tokens-per-second", "nan"), "--tokens-per-second: it should be"),
        (("limits", "shop", "--calls", "few"), "--calls: invalid int value: 'few'"),
        (("limits", "a/b", "--calls", "1"), "'a/b' is not allowed"),
    ],
)
def test_limits_that_cannot_be_are_refused(run: Run, arguments: tuple[str, ...], said: str, file: Path) -> None:
    status, out, err = run(*arguments)
    assert status
    assert said in err
    assert out == ""
    assert not file.exists()


def test_limits_are_in_the_audit_log(run: Run, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    run("limits", "shop", "--sessions", "100", "--audit-log", str(audit))
    begun, done = (json.loads(line) for line in audit.read_text().splitlines())
    assert (begun["act"], begun["on"], begun["sessions"]) == ("set-limits", "tenant shop", "100")
    assert done["result"] == "done"
