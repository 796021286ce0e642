"""What the README and the guides show works: Python, and the commands in the guides to training, models and tuning."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from charloom.bundle import read_bundle
from charloom.cli.main import COMMANDS as COMMANDS_OF
from charloom.cli.main import main
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.models import BUNDLED_MODEL
from charloom.server.testing import running_server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PICTURE = ElementTree.parse(ROOT / "docs/pictures/terminal.svg")
SHOWN = [text.replace("\N{NO-BREAK SPACE}", " ") for element in PICTURE.iter() if (text := element.text or "").strip()]
"""What stands in the picture of a terminal, piece by piece."""
PYTHON = [
    (path.name, code)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for code in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S)
]
NOT_RUN = {
    "http.md": "needs a server with HTTP: tests/integration/test_http_document.py runs it",
    "observing.md": "needs a server at work: tests/integration/test_status_wire.py runs it",
    "reference-lstms.md": "needs no server: tests/unit/lab/reference/test_reference_document.py runs it",
    "tasks.md": "needs a server of a classifier, which somebody has to train first",
}
"""Documents whose blocks are not for a server of the bundled model, and why."""
RUN = [(name, code) for name, code in PYTHON if name not in NOT_RUN]
COMMANDS = [
    line.split("#")[0].strip()
    for document in (
        README,
        *(
            (ROOT / "docs" / name).read_text("utf-8")
            for name in ("models.md", "sequences.md", "studies.md", "tasks.md", "training.md", "tuning.md")
        ),
    )
    for block in re.findall(r"```sh\n(.*?)```", document, re.S)
    for line in block.splitlines()
    if line.startswith("charloom ")
] + [line.rstrip(" &") for line in SHOWN if line.startswith("charloom ")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    bundled = read_bundle(BUNDLED_MODEL)
    with running_server([(bundled, open_decoder(bundled))]) as server:
        yield server.address


@pytest.mark.parametrize(("name", "code"), RUN, ids=[name for name, _ in RUN])
def test_the_python_blocks_run(
    name: str, code: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by itself, and what is to print something does."""
    monkeypatch.setenv("CHARLOOM_TOKEN", "for a server that asks nobody")
    assert "localhost:50051" in code or "charloom.local.open" in code
    exec(compile(code.replace("localhost:50051", address), name, "exec"), {})
    said = capsys.readouterr().out
    assert bool(said.strip()) == ("print(" in code)
    assert len(said) > 50 or name != "README.md"
    assert said.startswith("'T' ") or name != "inspecting.md"  # the first token of what is inspected


def test_documents_that_are_not_run_have_blocks() -> None:
    assert NOT_RUN.keys() <= dict(PYTHON).keys()
    runners = re.findall(r"tests/\S+\.py", " ".join(NOT_RUN.values()))
    assert [path for path in runners if "```python" not in (ROOT / path).read_text("utf-8")] == []


def test_the_bundled_model_is_inspected_as_shown(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for line in COMMANDS if line.startswith("charloom inspect")]
    assert len(commands) == 3
    for command in commands:
        assert main([*shlex.split(command)[1:], "--target", address]) == 0
    assert "forget gate f" in capsys.readouterr().out
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_exist_with_these_arguments(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the real parsers; what they would do is tested elsewhere."""
    asked: list[str] = []
    command = shlex.split(line)[1:]
    module = f"charloom.cli.{COMMANDS_OF[command[0]].room}.{command[0]}.run"
    monkeypatch.setattr(module, lambda arguments: asked.append(arguments.command) or 0)
    assert main(command) == 0
    assert asked == [command[0]]


def test_the_picture_shows_a_session_in_two_calls_and_fetches_nothing() -> None:
    commands = [line.split()[1] for line in SHOWN if line.startswith("charloom ")]
    assert commands == ["serve", "generate", "generate", "inspect"]
    assert any(line.startswith("listening on") for line in SHOWN)
    assert not re.search(r"url\((?!#)|href|@import", (ROOT / "docs/pictures/terminal.svg").read_text("utf-8"))


def test_every_path_named_in_the_readme_exists() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    listed = re.findall(r"^    (\w+/) ", README, re.M)
    scripts = re.findall(r"^sh (\S+)", README, re.M)
    assert linked
    assert listed
    assert scripts
    assert [path for path in [*linked, *listed, *scripts] if not (ROOT / path).exists()] == []


def test_no_placeholder_is_left() -> None:
    known = {
        "CHARLOOM_MAX_ROWS",
        "CHARLOOM_CONFIG",
        "CHARLOOM_CA",
        "CHARLOOM_TOKEN",
        "GRPC_VERBOSITY",
        "PIP_EXTRA_INDEX_URL",
    }
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", README)) <= known
