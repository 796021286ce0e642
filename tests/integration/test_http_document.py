"""The blocks of docs/http.md run, and the OpenAPI document is true."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openapi_spec_validator
import pytest

from benchmarks.fuzz_http import checked
from charloom.models import BUNDLED_MODEL
from charloom.server.identity.scopes import ROUTES
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.programs import needed

PAGE = (Path(__file__).resolve().parents[2] / "docs/http.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)
UNDESCRIBED = {"GET /openapi.json", "GET /", "GET /play/{file}"}
"""The document itself, and the page for people."""
CURL = re.findall(r"```bash\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server(open_models([BUNDLED_MODEL], settings), settings) as server:
        yield server.http_address


def test_the_page_has_blocks() -> None:
    assert PYTHON
    assert CURL


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_python_blocks_run(address: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "localhost:8000" in code
    exec(compile(code.replace("localhost:8000", address), "docs/http.md", "exec"), {})
    assert len(capsys.readouterr().out) > 50


@pytest.mark.parametrize("commands", CURL, ids=range(len(CURL)))
def test_the_curl_commands_run(address: str, commands: str) -> None:
    needed("curl")
    script = "set -e\n" + commands.replace("localhost:8000", address).replace("curl ", "curl -sS --fail ")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 50


def test_the_page_names_every_route() -> None:
    assert [name for name in ROUTES if f"{name.partition(' ')[2]}`" not in PAGE] == []


def test_the_openapi_document_is_one(address: str) -> None:
    document = httpx.get(f"http://{address}/openapi.json").json()
    openapi_spec_validator.validate(document)
    told = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert told == set(ROUTES) - UNDESCRIBED
    assert document["components"]["schemas"]["CompletionBody"]["properties"]["temperature"]


def test_answers_are_as_the_document_says(address: str) -> None:
    """`python -m benchmarks.fuzz_http` asks for more."""
    done = checked(address, examples=4, seed=1, phases="fuzzing", seconds=250)
    assert done.returncode == 0, done.stdout
    assert f" {len(ROUTES) - len(UNDESCRIBED)} passed" in done.stdout
