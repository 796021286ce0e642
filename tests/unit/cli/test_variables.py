"""Variables of the environment that nothing reads are told, and no others."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from charloom.cli.main import main
from charloom.cli.serving import serve
from charloom.cli.variables import OF_TESTS, unread_by_clients, unread_by_servers
from charloom.server.settings import ServerSettings, read_settings

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("benchmarks", "cli", "client", "deploy", "examples", "scripts", "server", "tests", "training")
OF_A_SERVICE = {
    "{}_SERVICE_HOST": "10.0.0.1",
    "{}_SERVICE_PORT": "50051",
    "{}_SERVICE_PORT_GRPC": "50051",
    "{}_PORT": "tcp://10.0.0.1:50051",
    "{}_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "{}_PORT_50051_TCP_PROTO": "tcp",
    "{}_PORT_50051_TCP_PORT": "50051",
    "{}_PORT_50051_TCP_ADDR": "10.0.0.1",
}
"""What Kubernetes sets for a Service, by its name."""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CHARLOOM_")]:
        monkeypatch.delenv(name)


def test_a_setting_that_is_misspelt_is_told_with_what_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_MAX_CALL", "5")
    monkeypatch.setenv("charloom_max_row", "5")
    monkeypatch.setenv("CHARLOOM_NOTHING_OF_OURS", "")
    assert [*unread_by_servers()] == [
        "CHARLOOM_MAX_CALL is not a setting; did you mean CHARLOOM_MAX_CALLS?",
        "CHARLOOM_NOTHING_OF_OURS is not a setting",
        "charloom_max_row is not a setting; did you mean CHARLOOM_MAX_ROWS?",
    ]
    assert [*unread_by_clients()] == []


def test_a_client_tells_what_is_like_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_TARGETS", "here:1")
    assert [*unread_by_clients()] == ["CHARLOOM_TARGETS is not a setting; did you mean CHARLOOM_TARGET?"]
    assert [*unread_by_servers()] == [*unread_by_clients()]


def test_every_variable_that_is_read_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the settings, and those that sources, tests and scripts name."""
    named = {f"CHARLOOM_{name.upper()}" for name in ServerSettings.model_fields}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in [*files, ROOT / "Dockerfile"]:
        if path != Path(__file__) and path.suffix in ("", ".js", ".py", ".sh", ".yaml") and path.is_file():
            named.update(re.findall(r"\bCHARLOOM_[A-Z][A-Z_]*[A-Z]\b", path.read_text("utf-8", errors="replace")))
    assert {"CHARLOOM_TOKEN", "CHARLOOM_CONFIG", *OF_TESTS} <= named
    for name in named:
        monkeypatch.setenv(name, "")
    assert [*unread_by_servers()] == [*unread_by_clients()] == []


@pytest.mark.parametrize("service", ["CHARLOOM", "CHARLOOM_HTTP", "CHARLOOM_REPLICAS"])
def test_what_kubernetes_sets_for_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in OF_A_SERVICE.items():
        monkeypatch.setenv(name.format(service), value)
    assert [*unread_by_servers()] == [*unread_by_clients()] == []
    assert read_settings({}) == ServerSettings()
    assert (read_settings({}).port, read_settings({}).http_port) == (50051, None)
    monkeypatch.setenv("CHARLOOM_PORT", "50052")
    assert read_settings({}).port == 50052


def test_commands_tell_it_once_and_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CHARLOOM_KEY_FILE", "keys.json")
    monkeypatch.setenv("CHARLOOM_TOKENS", "x")
    assert main(["keys", "create", "--tenant", "shop", "--file", str(tmp_path / "keys.json")]) == 0
    assert capsys.readouterr().err.splitlines()[:2] == [
        "charloom keys: CHARLOOM_KEY_FILE is not a setting",
        "charloom keys: CHARLOOM_TOKENS is not a setting; did you mean CHARLOOM_TOKEN?",
    ]
    assert main(["health", "--target", "127.0.0.1:1", "--timeout", "1"]) == 1
    assert capsys.readouterr().err.count("charloom health: CHARLOOM_TOKENS is not a setting") == 1
    assert main(["serve", "--check", "--port", "none"]) == 1
    assert capsys.readouterr().err.count("charloom serve: CHARLOOM_TOKENS is not a setting") == 1


def test_a_server_tells_it_in_its_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CHARLOOM_MAX_CALL", "5")
    for process_wide in ("set_up_logs", "leave_when_asked"):
        monkeypatch.setattr(serve, process_wide, lambda *_: None)
    serve.begin([], {})
    assert caplog.messages == ["CHARLOOM_MAX_CALL is not a setting; did you mean CHARLOOM_MAX_CALLS?"]
