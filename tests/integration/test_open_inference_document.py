"""The blocks of docs/open-inference.md run: stock clients, over gRPC and over HTTP, and curl."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from charloom.models import BUNDLED_MODEL
from charloom.server.app import Server
from charloom.server.open_runtime import open_models
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from tests.programs import needed

PAGE = (Path(__file__).resolve().parents[2] / "docs/open-inference.md").read_text("utf-8")
PYTHON = re.findall(r"```py\n(.*?)```", PAGE, re.S)
CURL = re.findall(r"```sh\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = ServerSettings(grace_seconds=0, http_port=0)
    with running_server(open_models([BUNDLED_MODEL], settings), settings) as server:
        yield server


def test_all_blocks_of_the_page_are_run() -> None:
    assert len(PYTHON) == len(CURL) == 1
    assert PAGE.count("```") == 2 * (len(PYTHON) + len(CURL))


def printed(code: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert "localhost" not in code
    exec(compile(code, "docs/open-inference.md", "exec"), {})
    return capsys.readouterr().out


def test_the_python_block_runs_over_both_transports(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = PYTHON
    assert "import tritonclient.http as triton" in PAGE
    over_grpc = code.replace("localhost:50051", server.address)
    assert len(printed(over_grpc, capsys)) >= 2 * 64
    over_http = code.replace("tritonclient.grpc", "tritonclient.http").replace("localhost:50051", server.http_address)
    assert len(printed(over_http, capsys)) >= 2 * 64


def test_the_curl_command_runs(server: Server) -> None:
    needed("curl")
    (command,) = CURL
    script = "set -e\n" + command.replace("localhost:8000", server.http_address).replace("curl ", "curl -sS --fail ")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"text_output"' in done.stdout
