"""A server in this process, in a thread of its own: for `charloom.local`, and for tests."""

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
def server_in_thread(models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings) -> Iterator[Server]:
    """Serve while the context is open. The thread keeps no process alive.

    Raises:
        ValueError, OSError: as `open_server` and `Server.start`.
        DecoderStuck: at the end; a thread goes on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="charloom-server", daemon=True)
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
