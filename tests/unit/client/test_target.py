"""Targets on this machine: no proxy of the environment comes between, and a Unix socket is as good as a port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charloom.cli.main import main
from charloom.client import AsyncClient, Client, ConnectionFailed, InvalidValue
from charloom.client._target import is_local
from tests.unit.client.fake_answers import TEXT
from tests.unit.client.fake_server import FakeServer

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One without a proxy, whatever the machine's own has."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(params=["grpc_proxy", "https_proxy", "http_proxy"])
def variable(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, nobody: str) -> str:
    """One of those that name a proxy, and the proxy is not there."""
    name: str = request.param
    environment.setenv(name, f"http://{nobody}")
    return name


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket where a server listens."""
    path = tmp_path / "charloom.sock"
    server = FakeServer(f"unix:{path}")
    yield path
    server.stop()


class TestProxies:
    @pytest.mark.parametrize(
        "form", ["127.0.0.1:{}", "localhost:{}", "LocalHost:{}", "ipv4:127.0.0.1:{}", "0.0.0.0:{}"]
    )
    @pytest.mark.parametrize("scheme", ["", "dns:", "dns:///"])
    def test_a_server_on_this_machine_is_reached_directly(
        self, server: FakeServer, variable: str, form: str, scheme: str
    ) -> None:
        target = form.format(server.target.rpartition(":")[2])
        with Client(target if target.startswith("ipv4:") else scheme + target) as client:
            assert client.complete("Hi", timeout=60).text == TEXT

    async def test_so_it_is_by_both_kinds_of_client(
        self, server: FakeServer, variable: str, make: Callable[..., Any]
    ) -> None:
        async with make(server.target) as client:
            assert (await client.complete("Hi", timeout=60)).text == TEXT

    def test_so_it_is_by_the_command(
        self, server: FakeServer, variable: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", "Hi", "--target", server.target]) == 0
        assert capsys.readouterr().out.strip() == TEXT

    def test_so_it_is_by_a_measured_load(self, server: FakeServer, variable: str) -> None:
        assert main(["bench", "--streams", "1", "--target", server.target]) == 0

    def test_any_other_goes_through_it_and_the_error_says_so(self, variable: str) -> None:
        with (
            Client("charloom.invalid:50051") as client,
            pytest.raises(ConnectionFailed, match=rf"\\? {variable} is set.*unless no_proxy names the host"),
        ):
            client.models(timeout=60)

    def test_without_one_nothing_is_said_of_it(self, environment: pytest.MonkeyPatch, nobody: str) -> None:
        with Client(nobody) as client, pytest.raises(ConnectionFailed) as caught:
            client.models(timeout=60)
        assert "proxy" not in str(caught.value)

    def test_who_wants_it_says_so(self, server: FakeServer, variable: str) -> None:
        wanted = [("grpc.enable_http_proxy", 1)]
        with Client(server.target, channel_options=wanted) as client, pytest.raises(ConnectionFailed):
            client.models(timeout=60)

    @pytest.mark.parametrize(
        ("target", "local"),
        [
            ("localhost", True),
            ("localhost.:1", True),
            ("127.8.9.1:50051", True),
            ("[::1]:50051", True),
            ("::1", True),
            ("ipv6:[::1]:50051", True),
            ("[::]:50051", True),
            ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
            ("dns://8.8.8.8/localhost:1", True),
            ("unix:charloom.sock", True),
            ("unix:///run/charloom.sock", True),
            ("unix-abstract:charloom", True),
            ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
            ("localhost.example.com:1", False),
            ("127.0.0.1.example.com:1", False),
            ("10.0.0.1:50051", False),
            ("[2001:db8::1]:50051", False),
            ("dns:///charloom.example.com:1", False),
            ("charloom", False),
            ("", False),
        ],
    )
    def test_which_are_on_this_machine(self, target: str, local: bool) -> None:
        assert is_local(target) is local


class TestUnixSockets:
    @pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
    async def test_every_kind_of_call_works(self, path: Path, make: Callable[..., Any], form: str) -> None:
        async with make(form.format(path)) as client:
            assert await client.is_serving()
            assert (await client.complete("Hi")).text == TEXT
            assert (await client.generate("Hi").result()).seed == 42
            async with client.observe() as observer:
                assert (await observer.read("ab")).position == 5

    def test_a_command_takes_one(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["generate", "Hi", "--target", f"unix:{path}"]) == 0
        assert capsys.readouterr().out.strip() == TEXT

    def test_one_where_nobody_listens_is_named(self, tmp_path: Path) -> None:
        target = f"unix:{tmp_path / 'nobody.sock'}"
        with Client(target) as client, pytest.raises(ConnectionFailed, match=rf"no answer from {target}.*unix:PATH\?"):
            client.models()

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_path_that_no_address_has_room_for_is_refused(self, kind: Any) -> None:
        with pytest.raises(InvalidValue, match="target: the path of a Unix socket has at most 107 bytes"):
            kind("unix:/" + "x" * 107)
        with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="path too long"):
            one.connect("/" + "x" * 108)
