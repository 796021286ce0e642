"""What an attack is, and how it is made by several threads until it is over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Process

THREADS = 4

Did = Counter[str]
"""What an attacker did, and how often."""
Act = Callable[[str, threading.Event, Did], None]
"""Attacks the server at an address, once or until it is over. An OSError means that the server ended a connection, or
reads nothing more."""


@dataclass(frozen=True)
class Attack:
    """One kind of attack."""

    name: str
    """As it is told."""
    under: Callable[[Process, Path, Did], AbstractContextManager[None]]
    """While the context is open, the server is attacked; the path is a folder of the server's."""
    flags: tuple[str, ...] = ()
    """Further ones of the server; {folder} is that path."""
    user: int | None = None
    """Whose process the server is, where it is not to be the one of this user."""
    settling: float = 2.0
    """Seconds after which the server is to be as before."""


def by_threads(name: str, act: Act, *flags: str, settling: float = 2.0) -> Attack:
    """An attack by `THREADS` threads, each of which begins again whenever the server ends its connection."""

    @contextmanager
    def under(server: Process, _: Path, did: Did) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    act(server.target, over, did)
                except TimeoutError:
                    did["connections of which the server took nothing more"] += 1
                except OSError:
                    did["connections that the server ended"] += 1

        threads = [threading.Thread(target=run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    return Attack(name, under, flags, settling=settling)
