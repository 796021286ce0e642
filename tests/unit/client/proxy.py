"""Something between clients and a server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0])
"""How a ping of HTTP/2 begins: its length, its type, no flags, no stream."""


class Proxy:
    """Something between a client and a server that can lose connections, and find another server."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend
        """Address of the server; `None` takes connections and drops them."""
        self.connections = 0
        """How many were made so far."""
        self.pings = 0
        """How many clients sent so far."""
        self.mute = False
        """Whether it lets nothing through any more, and tells neither side."""
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

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
        self._accepting.join()  # which may be making a connection
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
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, of_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.pings += of_client * data.count(PING)
                if not self.mute:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
