"""How many connections a listener keeps at a time: idle ones cost their clients nothing, and each of them is a file."""

from __future__ import annotations

import resource

from charloom.server.settings import ServerSettings


def most_connections(settings: ServerSettings) -> int:
    """The most connections of one listener: all of them together leave a fifth of the files that may be open.

    The operator decides of these files (`ulimit -n`, `LimitNOFILE=`).
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = 2**20
    listeners = 1 if settings.http_port is None else 2
    return max(1, files * 4 // 5 // listeners)
