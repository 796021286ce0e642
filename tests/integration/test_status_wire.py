"""The status of a server, by RPC, SDK and `charloom top`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from charloom.bundle import Bundle
from charloom.cli.main import main
from charloom.client import AsyncClient, Client, Overloaded, PermissionDenied
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.errors import StoreUnavailable
from charloom.server.app import Server
from charloom.server.identity.key_file import KeyFileEditor, made, utc_now
from charloom.server.identity.scopes import Scope
from charloom.server.settings import ServerSettings
from charloom.server.testing import running_server
from charloom.v1 import status_pb2, status_pb2_grpc
from tests.waiting import eventually

OBSERVING = Path(__file__).resolve().parents[2] / "docs" / "observing.md"


@dataclass
class Terminal:
    """A process on a terminal, and what it has written there."""

    process: subprocess.Popen[bytes]
    screen: int
    shown: bytes = b""

    def read_until(self, wanted: bytes) -> None:
        """Read on until it writes this once more."""
        count = self.shown.count(wanted)
        while self.shown.count(wanted) == count:
            self.shown += os.read(self.screen, 65536)


@pytest.fixture(scope="module")
def plain(bundle: Bundle, decoder: Decoder) -> Iterator[Server]:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, max_rows=2, workers=1)) as server:
        yield server


def test_what_was_done_is_counted(plain: Server) -> None:
    with Client(plain.address) as client:
        before = client.status()
        client.complete("the ", max_tokens=50)
        with pytest.raises(Exception, match="temperature"):
            client.complete(max_tokens=1, temperature=-1.0)
        with client.session() as session, session.generate(max_tokens=60_000) as stream:
            next(stream)
            during = client.status()
        now = client.status()
    [model], [was] = now.models, before.models
    assert (model.name, model.decoder, model.places) == ("small", "onnx-int8", 2)
    assert model.generation_tokens - was.generation_tokens > 50
    assert model.prompt_tokens - was.prompt_tokens >= 4
    assert model.tick_seconds.since(was.tick_seconds).count > 0
    assert model.first_token_seconds.since(was.first_token_seconds).count >= 1
    assert during.models[0].running == 1
    assert (during.sessions, during.sessions_in_use) == (1, 1)
    assert 0 < before.seconds < now.seconds
    assert now.most_bytes is not None
    methods = {one.name.partition("/")[2]: one for one in now.methods}
    assert methods["GetStatus"].running == 1
    assert methods["Generate"].ended >= 1


def test_the_part_of_the_rows_in_use_is_told(plain: Server) -> None:
    with Client(plain.address) as client:

        def half() -> bool:
            """A row that nobody reads is paused after some thousand tokens, and leaves its place to others."""
            with client.generate(max_tokens=60_000) as stream:
                next(stream)
                return client.status().usage == 0.5

        eventually(half)


def test_refusals_are_told_by_reason(bundle: Bundle, decoder: Decoder) -> None:
    settings = ServerSettings(grace_seconds=0, max_calls=2)
    with running_server([(bundle, decoder)], settings) as server, Client(server.address) as client:
        with client.generate(max_tokens=60_000) as one, client.generate(max_tokens=60_000) as two:
            next(one), next(two)
            with pytest.raises(Overloaded):
                client.models()
        eventually(lambda: server.engine.totals.methods["charloom.v1.GenerationService/Generate"].running == 0)
        assert client.status().refusals == {"OVERLOADED": 1}


def test_it_is_told_while_the_session_store_does_not_answer(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent() -> int:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(plain.engine.sessions, "count", silent)
    with Client(plain.address) as client:
        assert client.status().sessions is None


async def test_the_asyncio_client_tells_it_too(plain: Server) -> None:
    async with AsyncClient(plain.address) as client:
        assert [model.name for model in (await client.status()).models] == ["small"]


def test_it_is_for_administrators_and_names_the_tenants(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    file, texts = tmp_path / "keys", {}
    for tenant, scopes in (("shop", tuple(set(Scope) - {Scope.ADMIN})), ("operator", (Scope.ADMIN,))):
        texts[tenant], key = made(tenant, scopes, utc_now(), None)
        with KeyFileEditor(file).editing(create=True) as editor:
            editor.content = editor.content.model_copy(update={"keys": (*editor.content.keys, key)})
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0, keys=file)) as server:
        with Client(server.address, token=texts["shop"], tls=False) as client:
            client.complete(max_tokens=20)
            with pytest.raises(PermissionDenied):
                client.status()
        with Client(server.address, token=texts["operator"], tls=False) as client:
            tenants = {tenant.name: tenant for tenant in client.status().tenants}
    assert tenants["shop"].generation_tokens == 20
    assert tenants["operator"].running == 1


def test_the_document_shows_how(plain: Server, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", OBSERVING.read_text("utf-8"), re.DOTALL)
    exec(compile(code.replace("localhost:50051", plain.address), str(OBSERVING), "exec"), {})
    assert capsys.readouterr().out.startswith("small ")


def test_top_prints_one_interval_as_a_table_or_as_json(plain: Server, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["top", "--target", plain.address, "--once", "--interval", "0.1"]
    assert main(given) == 0
    assert "small" in capsys.readouterr().out
    assert main([*given, "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["models"][0]["name"] == "small"
    assert 0.1 <= found["over_seconds"] < found["up_seconds"]


def test_top_of_no_server_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--target", "unix:/nowhere/socket", "--once"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def on_terminal() -> Iterator[Callable[[str], Terminal]]:
    """Starts `charloom top` on a terminal of its own, of 12 lines of 60 columns."""
    started: list[Terminal] = []

    def start(target: str) -> Terminal:
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
        command = [sys.executable, "-m", "charloom.cli.main", "top", "--target", target, "--interval", "0.1"]
        started.append(Terminal(subprocess.Popen(command, stdin=its, stdout=its, stderr=its), ours))
        os.close(its)
        return started[-1]

    yield start
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.screen)


def test_top_draws_over_a_terminal_until_ctrl_c_and_leaves_it_as_it_was(
    plain: Server, on_terminal: Callable[[str], Terminal]
) -> None:
    terminal = on_terminal(plain.address)
    for _ in range(3):
        terminal.read_until(b"MODEL")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until(b"\x1b[?25h\x1b[?1049l")
    assert terminal.process.wait(120) == 130
    assert terminal.shown.startswith(b"\x1b[?1049h\x1b[?25l")
    for picture in terminal.shown.split(b"\x1b[H")[1:]:
        drawn = picture.partition(b"\x1b[J")[0].split(b"\r\n")
        assert len(drawn) <= 12
        assert all(len(line.removesuffix(b"\x1b[K")) <= 60 for line in drawn)


def test_top_waits_for_a_server_that_went_away(
    bundle: Bundle, decoder: Decoder, on_terminal: Callable[[str], Terminal]
) -> None:
    with running_server([(bundle, decoder)], ServerSettings(grace_seconds=0)) as server:
        terminal = on_terminal(server.address)
        terminal.read_until(b"MODEL")
    terminal.read_until(b"trying again")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(120) == 130


def test_the_stub_tells_it(plain: Server) -> None:
    with grpc.insecure_channel(plain.address) as channel:
        answer = status_pb2_grpc.StatusServiceStub(channel).GetStatus(status_pb2.GetStatusRequest())
    assert [model.device for model in answer.models] == ["cpu"]
