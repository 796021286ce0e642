"""How many connections a listener keeps."""

from __future__ import annotations

import asyncio
import resource

import grpc
import pytest

from charloom.server.connection_limit import most_connections
from charloom.server.grpc.connections import connection_options
from charloom.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("files", "http_port", "most"),
    [(1000, None, 800), (1000, 0, 400), (1, 0, 1), (resource.RLIM_INFINITY, None, 2**20 * 4 // 5)],
)
def test_listeners_leave_a_part_of_the_files(
    files: int, http_port: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections(ServerSettings(http_port=http_port)) == most


async def test_grpc_ends_a_connection_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3, 3))
    server = grpc.aio.server(options=connection_options(ServerSettings()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, _ in kept:
        assert await reader.read(1)  # its settings
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    for _, one in [*kept, (reader, writer)]:
        one.close()
    await server.stop(None)
