"""The image's file, and the set-up around one server, as far as they can be looked at without a container engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from charloom.server.identity.key_file import PREFIX, read_key_file
from charloom.server.identity.sealing_keys import SealingKeys
from charloom.server.settings import ServerSettings
from tests.integration.test_monitoring import ALERTS, DEPLOY, program

COMPOSE = DEPLOY / "compose"


def test_the_compose_file_is_one_and_names_files_that_are_there() -> None:
    checked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checked, str(COMPOSE / "compose.yaml")], check=True)
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))["services"]
    mounted = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    made = {"./secrets"}
    assert [path for path in mounted - made if path.startswith(".") and not (COMPOSE / path).exists()] == []


def test_the_server_of_the_compose_file_has_settings_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    server = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))["services"]["server"]
    for name, value in server["environment"].items():
        monkeypatch.setenv(name, value)
    settings = ServerSettings(host="0.0.0.0", insecure=True)
    named = {name.removeprefix("CHARLOOM_").lower() for name in server["environment"]}
    assert named <= set(ServerSettings.model_fields)
    assert (settings.http_port, settings.metrics_port, settings.store) == (8000, 9464, "redis://redis:6379/0")


def test_the_prometheus_of_the_compose_file_has_a_configuration_that_it_takes(tmp_path: Path) -> None:
    for file in (COMPOSE / "prometheus.yaml", ALERTS):
        shutil.copy(file, tmp_path)
    subprocess.run([program("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")], check=True)
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text("utf-8"))
    assert config["scrape_configs"][0]["job_name"] == "charloom"  # the alert rules ask for it


def test_secrets_for_the_compose_file_are_made_once(tmp_path: Path) -> None:
    shutil.copytree(COMPOSE, tmp_path / "compose")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    prepare = ["sh", str(tmp_path / "compose" / "prepare")]
    first = subprocess.run(prepare, env=environment, capture_output=True, text=True, check=True)
    secrets = tmp_path / "compose" / "secrets"
    made = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert set(made) == {"keys.json", "sealing-keys"}
    assert all(path.stat().st_mode & 0o007 == 0 for path in secrets.iterdir())
    again = subprocess.run(prepare, env=environment, capture_output=True, text=True, check=True)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == made
    (key,) = (word for word in first.stdout.split() if word.startswith(f"{PREFIX}_"))
    assert key not in again.stdout
    read_key_file(secrets / "keys.json")
    SealingKeys(secrets / "sealing-keys")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), str(DEPLOY.parent / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
