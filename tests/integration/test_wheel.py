"""The wheel and the source distribution, as they would be published: what is in them, and that they serve."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("proto", "bundle", "client", "cli", "server", "training")
MOST_BYTES = 12_000_000
"""Of the wheel, which brings a model with it."""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the source distribution as pip builds it, and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and this environment's other packages, but not this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(distributions[0])], check=True)
    # A folder that a .pth file names is searched, but .pth files in it are not read: the checkout is not found by it.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_has_what_git_has_of_the_roots_and_nothing_else(
    distributions: tuple[Path, Path],
) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *ROOTS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    kept = {name.partition("/")[2] for name in listed.stdout.splitlines() if not name.endswith(".proto")}
    names = {name for name in _names(distributions[0]) if ".dist-info/" not in name}
    assert names == {name for name in kept if name.startswith("charloom/")}


def test_every_package_says_that_it_has_types(distributions: tuple[Path, Path]) -> None:
    names = _names(distributions[0])
    packages = {name.split("/")[1] for name in names if name.startswith("charloom/")}
    assert {name for name in packages if f"charloom/{name}/py.typed" not in names} == set()


def test_the_source_distribution_has_what_a_build_needs(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"} <= names
    assert any(name.endswith(".proto") for name in names)
    assert not {name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))}


def test_both_are_fit_for_an_index(distributions: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert distributions[0].stat().st_size <= MOST_BYTES


def test_the_version_is_that_of_the_project(distributions: tuple[Path, Path], installed: Path) -> None:
    with zipfile.ZipFile(distributions[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        version = HeaderParser().parsestr(archive.read(name).decode())["Version"]
    told = subprocess.run([installed.parent / "charloom", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == version
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


def test_the_installed_wheel_generates_with_the_model_that_it_brings(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed, "-c", "import charloom.server.app as app; print(app.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed.parent.parent))
    command = [installed.parent / "charloom", "generate", "--bundle", "shakespeare", "--max-tokens", "40", "KING:"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CHARLOOM_", "PYTHON"))}
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) >= 20
