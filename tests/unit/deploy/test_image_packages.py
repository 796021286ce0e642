"""Against a folder of wheels in place of a package index."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from deploy.container_engines import CHECKOUT, CheckFailure
from deploy.image_packages import Package, main, resolve, usual_extras
from deploy.test_container import EXTRAS

PROJECT = """\
[project]
name = "shop"
version = "1"
dependencies = ["base"]
[project.optional-dependencies]
gpu = ["heavy>=2"]
gone = ["nowhere"]
"""


def wheel(folder: Path, name: str, version: str, tag: str, needs: str = "") -> None:
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as file:
        file.writestr(f"{name}-{version}.dist-info/METADATA", described)
        file.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        file.writestr(f"{name}-{version}.dist-info/RECORD", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wheel(tmp_path, "base", "1.0", "py3-none-any")
    for machine in ("x86_64", "aarch64"):
        wheel(tmp_path, "heavy", "2.1", f"cp312-cp312-manylinux_2_28_{machine}", "Requires-Dist: cuda-part\n")
    wheel(tmp_path, "heavy", "3.0", "cp312-cp312-win_amd64")
    wheel(tmp_path, "cuda_part", "13.0", "py3-none-manylinux_2_28_x86_64")
    for name, value in {"FIND_LINKS": str(tmp_path), "OFFLINE": "1", "CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    (tmp_path / "pyproject.toml").write_text(PROJECT, "utf-8")
    return tmp_path / "pyproject.toml"


def test_packages_are_those_for_the_image_and_not_for_this_machine(project: Path) -> None:
    packages = resolve(project, "gpu", "3.12", "x86_64")
    assert [(one.name, one.version) for one in packages] == [("base", "1.0"), ("cuda-part", "13.0"), ("heavy", "2.1")]
    assert all(isinstance(one, Package) for one in packages)


@pytest.mark.parametrize(
    ("extras", "python", "machine", "said"),
    [
        ("gone", "3.12", "x86_64", "nowhere was not found"),
        ("gpu", "3.11", "x86_64", "no wheels with a matching Python"),
        ("gpu", "3.12", "aarch64", "cuda-part"),
        ("other", "3.12", "x86_64", "other"),
    ],
)
def test_what_there_is_not_is_told_in_the_words_of_uv(
    project: Path, extras: str, python: str, machine: str, said: str
) -> None:
    with pytest.raises(CheckFailure, match=said):
        resolve(project, extras, python, machine)


def test_the_usual_extras_are_those_of_the_dockerfile() -> None:
    assert usual_extras((CHECKOUT / "Dockerfile").read_text("utf-8")) == EXTRAS
    with pytest.raises(CheckFailure, match="EXTRAS"):
        usual_extras("FROM python\n")


def test_the_command_fails_where_nothing_can_be_resolved(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "cuda"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert re.search(r"^image_packages: .*not found", told.err, re.DOTALL)
