"""How several processes share a server's limits, and which settings do not allow several processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from charloom.server.unix_socket import socket_path

MOST_PROCESSES = 256
METRICS = "metrics"
"""The parent's question for metrics."""
LEAST_MEMORY = 2**28
"""Bytes with which a process can serve anything."""


def part_of(most: int, processes: int) -> int:
    """One process's part of a limit, rounded up."""
    return -(-most // processes)


def hindrances(processes: int, settings: Mapping[str, Any]) -> Iterator[str]:
    """Why so many processes cannot serve with these settings, a sentence each that says what to do.

    Args:
        processes: how many; one always can
        settings: the values of `ServerSettings` by name
    """
    if processes == 1:
        return
    several = f"--processes {processes}"
    store, host, device = settings["store"], settings["host"], settings["device"]
    if store.startswith("memory:"):
        yield (
            f"{several} needs a store that processes share, and --store {store} is one process's own; "
            "give --store sqlite:PATH, or redis://HOST:PORT/DB"
        )
    if socket_path(host) is not None:
        yield f"{several} cannot listen on one Unix socket, --host {host}; give --host an address, and a --port"
    if device != "cpu":
        yield f"{several} would each take all of --device {device}; leave one of the two out"
    workers, memory = settings["workers"], settings["memory_bytes"]
    if workers is not None and workers < processes:
        yield f"{several} is more than --workers {workers}, and each needs one; raise that to {processes}"
    for name in ("max_calls", "max_waiting"):
        if settings[name] < processes:
            flag = f"--{name.replace('_', '-')}"
            yield f"{several} is more than {flag} {settings[name]}, and each takes a part of it; raise that"
    if memory is not None and memory // processes < LEAST_MEMORY:
        yield (
            f"{several} would have {memory // processes:,} bytes each of --memory-bytes {memory}; "
            f"raise that to {LEAST_MEMORY * processes}"
        )
