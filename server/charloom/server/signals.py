"""What signals mean to the process of a server: SIGTERM and SIGINT stop it, SIGHUP reloads its models."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Protocol

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Orders(Protocol):
    """Says what to call from now on when the server is asked to stop, and when to load its models again."""

    def __call__(self, stop: Callable[[], object], reload: Callable[[], object] = ..., /) -> None: ...


def leave_when_asked() -> None:
    """From now on, until `call_when_asked`, a signal to stop ends the process at once, with exit code 0.

    For a process that has nothing to put in order yet. An exception would not do: it may arise inside the import of a
    library, which makes another one of it, and a thread inside a library lets no interpreter end in order.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    for number in STOPPING:
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def call_when_asked(stop: Callable[[], object], reload: Callable[[], object] = lambda: None) -> None:
    """From now on, let the running event loop call the one at every signal to stop, and the other at SIGHUP.

    The loop's own `add_signal_handler` will not do: a loop that closes puts the default back, and the next signal would
    kill a process that is ending in order.
    """
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(stop))
    signal.signal(signal.SIGHUP, lambda number, frame: loop.call_soon_threadsafe(reload))


def ignore_all() -> None:
    """From now on, signals do nothing: the process is about to end anyway, and in order."""
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
