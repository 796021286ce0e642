"""Unix sockets as an address to listen on: their paths, and whether one is free."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from charloom.server.listener import PortInUse

log = logging.getLogger(__name__)

SCHEME = "unix:"
LONGEST_PATH = 107
"""In bytes; Linux keeps 108 for a path and the zero at its end."""


def socket_path(host: str) -> Path | None:
    """The path that `unix:PATH` or `unix:///PATH` names; None if the host is none of them."""
    return Path(host.removeprefix(SCHEME).removeprefix("//")) if host.startswith(SCHEME) else None


def require_place(path: Path) -> None:
    """See that a socket can be at a path; one may be there.

    Raises:
        PortInUse: none can be made there.
    """
    if len(bytes(path)) > LONGEST_PATH:
        raise PortInUse(
            f"cannot listen on {path}: a socket's path has at most {LONGEST_PATH} bytes; choose a shorter one"
        )
    if not path.parent.is_dir():
        raise PortInUse(f"cannot listen on {path}: there is no folder {path.parent}; make it, or choose another path")
    if path.exists() and not path.is_socket():
        raise PortInUse(f"cannot listen on {path}: it is there, and is no socket; choose another path")


def make_free(path: Path) -> None:
    """See that a server can listen at a path; a socket that a killed server has left is removed.

    Raises:
        PortInUse: another process listens there, or no socket can be made there.
    """
    require_place(path)
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            log.warning("%s is the socket of a server that has ended without removing it; it is replaced", path)
            path.unlink()
            return
        except OSError as problem:
            raise PortInUse(f"cannot listen on {path}: {problem.strerror}; choose another path") from problem
    raise PortInUse(f"cannot listen on {path}: another process listens there; stop it, or choose another path")
