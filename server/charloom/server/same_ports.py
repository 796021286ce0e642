"""Ports that a server is to listen on, of which two are the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from charloom.server.origins import address_of
from charloom.server.unix_socket import socket_path

LISTENERS = {"port": "host", "http_port": "http_host", "metrics_port": "metrics_host"}
"""Settings: each port, with the address that it is of."""


def same_ports(settings: Mapping[str, Any]) -> Iterator[str]:
    """Why no server can listen on all its ports, a sentence for each two, which says what to do.

    Args:
        settings: the values of `ServerSettings` by name
    """
    for one, other in itertools.combinations(LISTENERS, 2):
        port = settings[one]  # None: nothing listens; 0: a free one
        if port and port == settings[other] and _overlap(settings[LISTENERS[one]], settings[LISTENERS[other]]):
            first, second = (f"--{name.replace('_', '-')}" for name in (one, other))
            yield f"{first} and {second} are both {port}; give each its own (0 takes a free one)"


def _overlap(one: str, other: str) -> bool:
    """Whether a port of one host is surely one of the other; what names mean is not looked up."""
    if socket_path(one) is not None or socket_path(other) is not None:
        return False
    if one == other:
        return True
    first, second = (address_of("127.0.0.1" if host == "localhost" else host) for host in (one, other))
    if first is None or second is None or first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified
