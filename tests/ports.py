"""Ports for programs that cannot take a free one by themselves."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that nobody else is given while this process runs; servers, which reuse addresses, may listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    held.detach()
    return port
