"""A real server for tests: in this process, on a free port."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.server.app import Server
from charloom.server.in_thread import server_in_thread
from charloom.server.settings import ServerSettings


def running_server(
    models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings | None = None
) -> AbstractContextManager[Server]:
    """Run a server in a thread of its own; `127.0.0.1:{server.port}` takes calls while the context is open."""
    settings = settings or ServerSettings(grace_seconds=0)
    return server_in_thread(models, settings.model_copy(update={"host": "127.0.0.1", "port": 0}))
