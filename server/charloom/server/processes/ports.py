"""Ports that the parent holds and its children listen on, by `SO_REUSEPORT`.

The parent never listens, so it is given no connection: the system gives each to one of the children that do. It holds
the port so that it stays the server's own while children are replaced, and so that port 0 means one port for all.
"""

from __future__ import annotations

import socket

from charloom.server.listener import PortInUse


def held(host: str, port: int, flag: str) -> socket.socket:
    """A socket that holds a port for processes of this user.

    Args:
        host: an address of this machine, or a name of one
        port: 0 takes a free one
        flag: of the setting with the port, for the message

    Raises:
        PortInUse: it is taken, or the address is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            # After the bind: set earlier, it would let two servers on the same port share its connections.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except BaseException:
            found.close()
            raise
    except OSError as problem:
        raise PortInUse(
            f"cannot listen on {host}:{port}: {problem.strerror}; "
            f"stop the other server, or choose another {flag} (0 takes a free one)"
        ) from problem
    return found
