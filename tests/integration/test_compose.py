"""The image's file, and the set-up around one server, as far as they can be looked at without a container engine."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from charloom.bundle import Bundle
from charloom.cli.flags import given_settings
from charloom.cli.serving.serve import add_arguments
from charloom.client import Client, Unauthenticated
from charloom.engine.decoding.decoder import Decoder
from charloom.server.identity.key_file import PREFIX, read_key_file
from charloom.server.identity.sealing_keys import SealingKeys
from charloom.server.origins import is_local
from charloom.server.settings import ServerSettings, read_settings
from charloom.server.testing import running_server
from tests.integration.test_monitoring import ALERTS, DEPLOY, RULES, found, prometheus
from tests.programs import needed
from tests.unit.engine.redis_server import RedisServer
from tests.waiting import eventually

COMPOSE = DEPLOY / "compose"
SERVICES = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))["services"]


def test_the_compose_file_is_one_and_names_files_that_are_there() -> None:
    checked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checked, str(COMPOSE / "compose.yaml")], check=True)
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    made = {"./secrets"}
    assert [path for path in mounted - made if path.startswith(".") and not (COMPOSE / path).exists()] == []


def test_the_server_of_the_compose_file_has_settings_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = settings_of(SERVICES["server"]["command"])
    named = {name.removeprefix("CHARLOOM_").lower() for name in SERVICES["server"]["environment"]}
    assert named <= set(ServerSettings.model_fields)
    assert (settings.http_port, settings.metrics_port, settings.store) == (8000, 9464, "redis://redis:6379/0")


def settings_of(command: list[str]) -> ServerSettings:
    """Of `serve` with these arguments, in this environment."""
    assert command[0] == "serve"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_settings(given_settings(parser.parse_args(command[1:]), ServerSettings))


def test_others_than_its_container_reach_the_server_of_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = settings_of(SERVICES["server"]["command"])
    hosts = {
        settings.port: settings.host,
        settings.http_port: settings.http_host,
        settings.metrics_port: settings.metrics_host,
    }
    published = {int(port.rpartition(":")[2]) for port in SERVICES["server"]["ports"]}
    assert published == {settings.port, settings.http_port}
    scrapes = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    ((scraped,),) = (one["targets"] for one in scrapes[0]["static_configs"])
    for port in (*published, int(scraped.rpartition(":")[2])):
        assert not is_local(hosts[port]), port


def test_the_prometheus_of_the_compose_file_has_a_configuration_that_it_takes(tmp_path: Path) -> None:
    for file in (COMPOSE / "prometheus.yaml", ALERTS):
        shutil.copy(file, tmp_path)
    subprocess.run([needed("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yaml")], check=True)
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text("utf-8"))
    assert config["scrape_configs"][0]["job_name"] == "charloom"  # the alert rules ask for it


def prepared(folder: Path) -> tuple[Path, str]:
    """Make the secrets in a copy of the set-up, or find them there; returns their folder, and what was printed."""
    shutil.copytree(COMPOSE, folder / "compose", dirs_exist_ok=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    prepare = ["sh", str(folder / "compose" / "prepare")]
    done = subprocess.run(prepare, env=environment, capture_output=True, text=True, check=True)
    return folder / "compose" / "secrets", done.stdout


def key_in(printed: str) -> str:
    (key,) = (word for word in printed.split() if word.startswith(f"{PREFIX}_"))
    return key


def test_secrets_for_the_compose_file_are_made_once(tmp_path: Path) -> None:
    secrets, first = prepared(tmp_path)
    made = {path.name: path.read_bytes() for path in secrets.iterdir()}
    assert set(made) == {"keys.json", "sealing-keys"}
    assert all(path.stat().st_mode & 0o007 == 0 for path in secrets.iterdir())
    _, again = prepared(tmp_path)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == made
    assert key_in(first) not in again
    read_key_file(secrets / "keys.json")
    SealingKeys(secrets / "sealing-keys")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """The Redis of the compose file, with its options, from the programs of this machine."""
    server = RedisServer(tmp_path, *SERVICES["redis"]["command"][1:])
    yield server
    server.kill()


def test_the_services_of_the_compose_file_work_together(
    redis: RedisServer, bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As programs of this machine, with the settings of the file but for addresses and paths."""
    secrets, printed = prepared(tmp_path)
    token = key_in(printed)
    for name, value in SERVICES["server"]["environment"].items():
        here = value.replace("//redis:6379", f"//127.0.0.1:{redis.port}").replace("/run/secrets", str(secrets))
        monkeypatch.setenv(name, "0" if name.endswith("_PORT") else here)
    settings = ServerSettings(metrics_host="127.0.0.1", http_host="127.0.0.1", grace_seconds=0)
    shutil.copy(ALERTS, tmp_path)
    config = (COMPOSE / "prometheus.yaml").read_text("utf-8").replace("5s", "300ms")
    with running_server([(bundle, decoder)], settings) as server:
        with Client(server.address, token=token) as client:
            with client.session(id="kept", keep=True) as session:
                text = session.complete("a", max_tokens=20).text
            with pytest.raises(Unauthenticated), Client(server.address) as stranger:
                stranger.complete("a")
            asked = urllib.request.Request(
                f"http://{server.http_address}/v1/models", headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert [one["id"] for one in json.load(answer)["data"]] == [bundle.manifest.name]
        with prometheus(config.replace("server:9464", server.metrics_address), tmp_path) as address:
            eventually(lambda: found(address, 'up{job="charloom"}') == [1.0])
            eventually(lambda: len(found(address, "charloom_store_seconds_count")) > 0)
            with urllib.request.urlopen(f"http://{address}/api/v1/rules", timeout=60) as answer:
                groups = json.load(answer)["data"]["groups"]
            assert sum(len(group["rules"]) for group in groups) == len(RULES)
    redis.kill()
    assert redis.start()
    with running_server([(bundle, decoder)], settings) as server, Client(server.address, token=token) as client:
        assert client.get_session("kept").position == len(text) + 1  # what Redis had on its disk


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), str(DEPLOY.parent / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
