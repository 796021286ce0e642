"""A real server for tests: in this process, on a free port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server, open_server
from charloom.server.settings import ServerSettings


@contextmanager
def running_server(
    models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings | None = None
) -> Iterator[Server]:
    """Run a server in a thread of its own; `127.0.0.1:{server.port}` takes calls while the context is open."""
    settings = (settings or ServerSettings(grace_seconds=0)).model_copy(update={"host": "127.0.0.1", "port": 0})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="charloom-test-server")
    thread.start()

    async def start() -> Server:
        server = await open_server(models, settings)
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
