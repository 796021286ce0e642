"""The HTTP transport: routes in OpenAI's form on a port of their own, in the event loop of the server."""

from __future__ import annotations

import asyncio
import socket

from charloom.server.admission import Admission
from charloom.server.connection_limit import most_connections
from charloom.server.http.app import Application
from charloom.server.http.connections import uvicorn_server
from charloom.server.http.hosts import Sites
from charloom.server.http.routes import routes_of
from charloom.server.http.tls import tls_context
from charloom.server.identity.certificates import watched_certificates
from charloom.server.listener import PortInUse
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings

BYTES_OF_CHARACTER = 12
"""The most that JSON takes for a character, as two escapes."""
SPARE = 2**21
"""Bytes for what a body holds besides its texts and its state."""
BACKLOG = 2048
END_SECONDS = 1.0
"""How long the calls of connections that were ended may take to notice, before uvicorn cancels them."""


class HttpListener:
    """A `Listener` for HTTP/1.1, with TLS where the settings name a certificate.

    Args:
        runtime: serves the calls
        settings: where to listen, and what to allow
        admission: lets calls in
    """

    def __init__(self, runtime: Runtime, settings: ServerSettings, admission: Admission) -> None:
        self.port = 0
        """The port it listens on, once started."""
        self.address = ""
        """Host and port, once started."""
        self._host = settings.http_host
        self._settings = settings
        engine = runtime.engine

        def largest() -> int:
            return BYTES_OF_CHARACTER * engine.limits.max_prompt_characters + 3 * engine.largest_state + SPARE

        sites = Sites(settings.http_hosts, settings.http_origins)
        self._application = Application(routes_of(runtime, settings), admission, sites, largest)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and take calls.

        Raises:
            PortInUse: the address is taken, or cannot be listened on.
            CertificateProblem: the certificate files cannot be used.
        """
        certificates = watched_certificates(self._settings)
        tls = None if certificates is None else tls_context(certificates, self._settings)
        listening = self._bound()
        self.port = listening.getsockname()[1]
        self.address = f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"
        self._server = uvicorn_server(self._application, tls, most_connections(self._settings))
        self._serving = asyncio.create_task(self._server.serve([listening]))

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        shared = self._settings.processes > 1
        address = self._host, self._settings.http_port or 0
        try:
            return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=shared)
        except OSError as problem:
            raise PortInUse(
                f"cannot listen on {self._host}:{self._settings.http_port} for HTTP: {problem.strerror}; "
                "choose another --http-port (0 takes a free one)"
            ) from problem

    async def announce_stop(self) -> None:
        """The route /health says it as soon as the engine drains."""

    async def close(self, seconds: float) -> None:
        """Take no more calls, and end those that are left after `seconds`."""
        if self._serving is None:
            return
        graceful = seconds + END_SECONDS
        self._server.config.timeout_graceful_shutdown = graceful  # type: ignore[assignment]  # any number will do
        self._server.take_no_more()
        # End connections as if the clients had gone: uvicorn would cancel them and log each as an error of ours.
        ending = asyncio.get_running_loop().call_later(seconds, self._server.end_connections)
        await self._serving
        ending.cancel()
        self._server.end_connections()
