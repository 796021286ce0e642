"""The service file for a plain machine, and the settings that docs/operating.md shows for it."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
from pathlib import Path

import pytest

from charloom.cli.serving.serve import add_arguments
from charloom.server.settings import ServerSettings, read_settings

ROOT = Path(__file__).resolve().parents[3]
UNIT = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
UNIT.optionxform = str  # type: ignore[assignment, method-assign]
UNIT.read(ROOT / "deploy" / "charloom.service")
SERVICE = UNIT["Service"]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """The settings of the guide."""
    [block] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "operating.md").read_text("utf-8"), re.S)
    file = tmp_path / "charloom.toml"
    file.write_text(block, "utf-8")
    monkeypatch.setenv("CHARLOOM_CONFIG", str(file))
    return read_settings({})


def test_the_settings_of_the_guide_are_settings_and_the_service_lets_the_server_use_them(shown: ServerSettings) -> None:
    assert shown.open_doors() == []
    kept = Path(shown.store.removeprefix("sqlite:"))
    assert kept.parent == Path("/var/lib") / SERVICE["StateDirectory"]


def test_calls_have_the_time_to_end_before_systemd_kills_the_server(shown: ServerSettings) -> None:
    assert float(SERVICE["TimeoutStopSec"]) > shown.grace_seconds + 5


def test_the_service_starts_the_server_with_flags_that_there_are() -> None:
    _, command, *rest = shlex.split(SERVICE["ExecStart"])
    assert command == "serve"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert str(parser.parse_args(rest).config) == "/etc/charloom/charloom.toml"
