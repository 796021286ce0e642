"""HTTP connections: uvicorn's, with time limits for requests and readers, and with methods that requests use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
"""Seconds that the head of a request may take to arrive; for the first of a connection, the TLS handshake included."""
STALLED_SECONDS = 60.0
"""Seconds that a client may read nothing of a pending answer before its connection is ended."""


class Connection(H11Protocol):
    """A connection. Requests find it as `state["connection"]` in their scope."""

    most_at_a_time: int
    """Connections of the server."""
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _unread = 0
    """Unsent bytes at the time when the timer was set."""
    _eof = False
    """Whether the client sends no more, so that the connection ends once all is sent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._socket: socket.socket = transport.get_extra_info("socket")
        self.app_state = {"connection": self}
        self._expect_head()
        if len(self.connections) > self.most_at_a_time:
            log.debug("a connection was ended at once: there are %d, as many as are kept", self.most_at_a_time)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._forget_reader()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._forget_head()
        elif self._head_timer is None:
            self._expect_head()
        self._expect_end()

    def eof_received(self) -> None:
        self._eof = True
        self._expect_end()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_end()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.abort)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        self._forget_reader()
        super().resume_writing()
        self._expect_end()

    def _expect_end(self) -> None:
        """Set the timer for a connection that ends once all is sent, even if only little is left to send."""
        if self._read_timer is None and self._ending():
            self._expect_reader()

    def _ending(self) -> bool:
        return self._eof or self.transport.is_closing()

    def _unsent(self) -> int:
        """Bytes that are still to be sent; 0 while TLS is closing, whose buffers cannot be seen."""
        return 0 if self.scheme == "https" and self._ending() else self.transport.get_write_buffer_size()

    def _expect_reader(self) -> None:
        self._forget_reader()
        self._unread = self._unsent()
        self._read_timer = self.loop.call_later(STALLED_SECONDS, self._check_reader)

    def _check_reader(self) -> None:
        if self._unsent() < self._unread:
            self._expect_reader()
        else:
            self.abort()

    def _forget_reader(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, at once if its client has not even read the last answer."""
        if self._unsent():
            self.abort()
        else:
            super().timeout_keep_alive_handler()
            self._expect_end()

    def abort(self) -> None:
        """End the connection at once; what was not sent is dropped."""
        self.transport.abort()
        if self.scheme == "https":  # after a second close, asyncio's TLS no longer has its connection
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def certificate_names(self) -> list[str] | None:
        """The names in the client's certificate, which TLS has checked; None without one."""
        tls: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        certificate: dict[str, Any] | None = None if tls is None else tls.getpeercert()
        if not certificate:
            return None
        return [str(name) for _, name in certificate.get("subjectAltName", ())]


class UvicornServer(Server):
    """uvicorn in an event loop that is not its own: signals are the application's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield

    def take_no_more(self) -> None:
        """Accept no more connections, and end. By itself uvicorn accepts them until its next tick."""
        self.should_exit = True
        for listening in self.servers if self.started else ():
            listening.close()

    def end_connections(self) -> None:
        """End all connections that are left."""
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.abort()


def uvicorn_server(application: Any, tls: ssl.SSLContext | None, most: int) -> UvicornServer:
    """Make a server for an application, not started yet. It keeps `most` connections, and ends further ones.

    h11 bounds the head of a request, which httptools does not. Proxies are trusted as the server's own settings say.
    """

    class Counted(Connection):
        most_at_a_time = most

    config = Config(
        application,
        http=Counted,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
        timeout_keep_alive=75,
        reset_contextvars=True,  # otherwise a request would inherit context variables of the one before it
    )
    return UvicornServer(config)
