"""Something between clients and a server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading


class Proxy:
    """Something between a client and a server that can lose connections, and find another server."""

    def __init__(self, backend: str | None, *, idle: float | None = None) -> None:
        self.backend = backend
        """Address of the server; `None` takes connections and drops them."""
        self.connections = 0
        """How many were made so far."""
        self.mute = False
        """Whether it lets nothing through any more, and tells neither side."""
        self._idle = idle
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all connections, as a machine does whose process was killed."""
        while self._open:
            one = self._open.pop()
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.backend is None:
                    client.close()
                    continue
                host, port = self.backend.split(":")
                server = socket.create_connection((host, int(port)))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            source.settimeout(self._idle)
            try:
                while data := source.recv(65536):
                    if not self.mute:
                        sink.sendall(data)
            except TimeoutError:
                self.cut()
            sink.shutdown(socket.SHUT_WR)
