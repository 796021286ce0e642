"""The limit of connections of a listener: idle ones cost their clients nothing, but each one is an open file here."""

from __future__ import annotations

import resource

from charloom.server.settings import ServerSettings


def most_connections(settings: ServerSettings) -> int:
    """The most connections of one listener, so that all listeners together leave a fifth of the open files free.

    The operator sets the number of open files (`ulimit -n`, `LimitNOFILE=`).
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 2**20
    listeners = 1 if settings.http_port is None else 2
    return max(1, files * 4 // 5 // listeners)
