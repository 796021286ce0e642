from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.container_engines import CheckFailure, choose_engine
from deploy.test_container import Container, check_inside

ROOT = Path(__file__).resolve().parents[3]
INSIDE: dict[str, Any] = {
    "uids": [10001] * 4,
    "capabilities": 0,
    "no_new_privileges": 1,
    "materials": ["charloom", "grpcio", "numpy", "onnxruntime"],
    "writes": {"": errno.EROFS, "/tmp": errno.EROFS},
    "resident": 100 * 2**20,
    "torch": False,
}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the stub of docker, the only engine on PATH, sees and shows."""
    stub = tmp_path / "bin" / "docker"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stub_docker.py")} "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(stub.parent))
    monkeypatch.setenv("STUB_FOLDER", str(tmp_path))
    (tmp_path / "inside.json").write_text(json.dumps(INSIDE))
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    patient = "it.START_SECONDS = it.STOP_SECONDS = 300.0"
    code = f"from deploy import test_container as it; {patient}; raise SystemExit(it.main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def calls(docker: Path, verb: str) -> list[list[str]]:
    """What followed this verb in each call of the engine."""
    lines = [json.loads(line) for line in (docker / "calls").read_text().splitlines()]
    return [line[1:] for line in lines if line[0] == verb]


def test_a_good_image_passes(docker: Path) -> None:
    done = run("--extras", "server", "--base", "python:3.12-slim", "--", "--secret", "id=ca,src=ca.pem")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "test_container: passed"
    (build,) = calls(docker, "build")
    expected = ["EXTRAS=server", "PYTHON_IMAGE=python:3.12-slim", "id=ca,src=ca.pem", "charloom:test", str(ROOT)]
    assert [argument for argument in build if argument[0] != "-"] == expected
    (started,) = calls(docker, "run")
    assert {"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"} <= set(started)
    assert (docker / "code").read_text() == "0"
    assert len(calls(docker, "rm")) == 1


def test_a_server_that_ends_at_once_fails_with_its_log_and_the_container_goes(
    docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SERVE", "--max-rows none")
    done = run("--skip-build")
    assert done.returncode == 1
    assert "FAILED: the server ended while it started, exit code" in done.stderr
    assert "--max-rows none" in done.stdout.split("--- the server's log ---")[1]
    assert len(calls(docker, "rm")) == 1


@pytest.mark.parametrize(
    ("seen", "failure"),
    [
        ({"uids": [0, 0, 0, 0]}, "runs as root"),
        ({"capabilities": 0x400}, "capabilities 0x400"),
        ({"no_new_privileges": 0}, "no_new_privileges 0"),
        ({"materials": ["charloom", "grpcio"]}, "bill of materials lacks onnxruntime"),
        ({"writes": {"": 0, "/tmp": errno.EROFS}}, "not on a read-only file system: /$"),
        ({"torch": True}, "torch is in the image"),
    ],
)
def test_what_is_wrong_inside_is_named(docker: Path, seen: dict[str, Any], failure: str) -> None:
    (docker / "inside.json").write_text(json.dumps(INSIDE | seen))
    container = Container(choose_engine("docker", None), "c", "localhost:1", "localhost:1")
    with pytest.raises(CheckFailure, match=failure):
        check_inside(container, "server")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run()
    assert done.returncode == 1
    for line in (
        "docker: docker not installed",
        "podman: podman not installed",
        "buildah: buildah and podman not inst",
    ):
        assert line in done.stderr
    with pytest.raises(CheckFailure, match="podman does not work here: podman not installed"):
        choose_engine("podman", None)


@pytest.mark.parametrize(("name", "tools"), [("podman", ["podman"]), ("buildah", ["buildah", "podman"])])
def test_storage_has_the_place_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tools: list[str]
) -> None:
    for tool in tools:
        (tmp_path / tool).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = choose_engine(name, Path("/images"))
    for command in (engine.build, engine.control):
        assert command[1:5] == ("--root", "/images/root", "--runroot", "/images/runroot")
    assert engine.build[0] == name
    assert engine.control[0] == "podman"
    assert engine.host_network == (name == "buildah")
    assert "--read-only-tmpfs=false" in engine.run_options
