"""Clients that have a server of their own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from charloom.client import AsyncClient, Client
from charloom.local._settings import LocalSettings
from charloom.models import BUNDLED_MODEL, bundle_path
from charloom.server.in_thread import server_in_thread
from charloom.server.open_runtime import open_models

_OF_SERVERS = {"host", "port", "processes"}
"""Settings that say where others reach a server, and how it is spread."""
_UNKNOWN = "there is no such setting; charloom serve --help lists them, here with _ in place of -"


class LocalClient(Client):
    """A `Client` with a server of its own; `open` makes it.

    Closing it ends both. A program that ends without closing it loses what it would lose if a server were killed: calls
    that are running, and sessions in memory.
    """

    def __init__(self, server: ExitStack, target: str, timeout: float | None) -> None:
        super().__init__(target, timeout=timeout)
        self._server = server

    def close(self) -> None:
        """End the calls that are running, the connection and the server."""
        super().close()
        self._server.close()


class LocalAsyncClient(AsyncClient):
    """An `AsyncClient` with a server of its own; `open_async` makes it."""

    def __init__(self, server: ExitStack, target: str, timeout: float | None) -> None:
        super().__init__(target, timeout=timeout)
        self._server = server

    async def close(self) -> None:
        """End the calls that are running, the connection and the server."""
        await super().close()
        await asyncio.to_thread(self._server.close)


def open(
    bundle: str | PathLike[str] = BUNDLED_MODEL.name, *, timeout: float | None = 60.0, **settings: Any
) -> LocalClient:
    """A client, and a server in this process that serves one bundle.

    Args:
        bundle: the directory that `charloom export` wrote, or the name of the bundled model
        timeout: of each call in seconds, as in `Client`
        settings: of the server, under the names of the flags of `charloom serve`: `store="sqlite:mine.db"` keeps the
            sessions. Environment and settings file are not asked. There is no `host`, `port` or `processes`: nobody
            else reaches this server.

    Raises:
        FileNotFoundError: there is no such bundle.
        charloom.bundle.BundleError: it cannot be served; the message says which file and why.
        ValueError: a setting is not allowed.
        OSError: the session store cannot be used.
    """
    server, target = _serve(bundle, settings)
    return LocalClient(server, target, timeout)


async def open_async(
    bundle: str | PathLike[str] = BUNDLED_MODEL.name, *, timeout: float | None = 60.0, **settings: Any
) -> LocalAsyncClient:
    """The same for asyncio: a client for `async with`, once awaited."""
    server, target = await asyncio.to_thread(_serve, bundle, settings)
    return LocalAsyncClient(server, target, timeout)


def _serve(bundle: str | PathLike[str], given: dict[str, Any]) -> tuple[ExitStack, str]:
    """A server that runs until the stack is closed, and where to reach it."""
    with ExitStack() as server:
        target = server.enter_context(_server(bundle_path(bundle), given))
        return server.pop_all(), target
    raise AssertionError("an ExitStack of its own swallows nothing")


@contextmanager
def _server(bundle: Path, given: dict[str, Any]) -> Iterator[str]:
    for name in _OF_SERVERS & given.keys():
        raise ValueError(
            f"{name}: this server is for this program alone, and one process on a socket of its own; leave it out, or "
            "start a server for others with charloom serve"
        )
    with tempfile.TemporaryDirectory(prefix="charloom-") as folder:  # only this user can enter it
        settings = _settings(given, f"unix:{folder}/server")
        with server_in_thread(open_models([bundle], settings), settings) as server:
            yield server.address


def _settings(given: dict[str, Any], host: str) -> LocalSettings:
    try:
        return LocalSettings(**{"grace_seconds": 0.0, **given, "host": host})
    except ValidationError as problem:
        told = []
        for mistake in problem.errors():
            unknown = mistake["type"] == "extra_forbidden"
            told.append(": ".join([*map(str, mistake["loc"]), _UNKNOWN if unknown else mistake["msg"]]))
        raise ValueError("; ".join(told)) from problem
