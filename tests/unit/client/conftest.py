from __future__ import annotations

import io
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from charloom.cli.main import main
from charloom.client import AsyncClient, Client
from charloom.client._resumption import Pace, Resumption
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.proxy import Proxy
from tests.unit.client.twins import AsAsyncio

Run = Callable[..., int]


@pytest.fixture
def run(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command against the server; text given as `stdin` is piped in, and so are bytes."""
    monkeypatch.setenv("CHARLOOM_TARGET", server.target)

    def run(*words: str, stdin: str | bytes = "") -> int:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        return main(words)

    return run


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def shared_stream() -> bool:
    """Whether the clients' calls of Generate share a stream; a module may say `shared_stream = with_and_without`."""
    return False


@pytest.fixture
def client(server: FakeServer, shared_stream: bool) -> Iterator[Client]:
    with Client(server.target, shared_stream=shared_stream) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(server: FakeServer, shared_stream: bool) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target, shared_stream=shared_stream) as client:
        yield client


@pytest.fixture(params=[AsyncClient, Client])
def make(request: pytest.FixtureRequest, shared_stream: bool) -> Callable[..., Any]:
    """Makes a client of either kind, the blocking one with the surface of the other."""

    def make(*args: Any, **kwargs: Any) -> Any:
        client = request.param(*args, **{"shared_stream": shared_stream, **kwargs})
        return client if request.param is AsyncClient else AsAsyncio(client)

    return make


@pytest_asyncio.fixture
async def either(server: FakeServer, make: Callable[..., Any]) -> AsyncIterator[Any]:
    """A client of either kind, the blocking one with the surface of the other."""
    async with make(server.target) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that breaks off is asked for again only for a moment where its call has no deadline."""
    monkeypatch.setitem(Resumption.__init__.__kwdefaults__, "pace", Pace(patience=0.2))  # type: ignore[arg-type]


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[Proxy]:
    proxy = Proxy(server.target)
    yield proxy
    proxy.stop()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
