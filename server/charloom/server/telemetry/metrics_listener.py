"""Metrics over HTTP, on a port and in threads of their own: no scrape delays a call, not even one that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from charloom.server.listener import PortInUse

log = logging.getLogger(__name__)

MOST_SCRAPES = 8
"""At a time; the connection of a further one is closed."""
SCRAPE_SECONDS = 10.0
"""Seconds that a client may take in all to ask and to read the answer, before its connection is closed."""


class MetricsListener:
    """A `Listener` that answers any GET with the metrics.

    Args:
        registry: has the metrics; it is asked on any thread
        host, port: where to listen; 0 takes a free port
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self.port = 0
        """The port it listens on, once started."""
        self.address = ""
        self._host = host
        self._wanted = port
        self._registry = registry
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Listen and answer.

        Raises:
            PortInUse: the address is taken, or cannot be listened on.
        """
        handler: Any = type("Handler", (MetricsHandler.factory(self._registry),), {"timeout": SCRAPE_SECONDS})
        try:
            self._server = _Server(self._host, self._wanted, handler)
        except OSError as problem:
            raise PortInUse(
                f"cannot listen on {self._host}:{self._wanted} for metrics: {problem.strerror}; "
                "choose another --metrics-port (0 takes a free one)"
            ) from problem
        self.port = self._server.server_address[1]
        self.address = f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="charloom-metrics", daemon=True)
        self._thread.start()
        log.info("metrics are at http://%s/metrics", self.address)

    async def announce_stop(self) -> None:
        """Metrics are told until the end."""

    async def close(self, seconds: float) -> None:
        """Take no more scrapes; what is left of one ends with the process."""
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MOST_SCRAPES)
        self._ends: dict[Any, float] = {}
        """The time at which each open connection is closed."""
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._ends[request] = time.monotonic() + SCRAPE_SECONDS
        try:
            super().process_request(request, client_address)
        except BaseException:  # the system has no thread to give now
            self._gone(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._gone(request)

    def service_actions(self) -> None:
        """Twice a second, end connections that take too long: a socket's own timeout restarts with each byte."""
        now = time.monotonic()
        for request, end in self._ends.copy().items():
            if now > end:
                with contextlib.suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def _gone(self, request: Any) -> None:
        del self._ends[request]
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore scrapers that go away or are too slow."""
        log.debug("a scrape was not answered", exc_info=True)
