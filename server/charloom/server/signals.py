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
    """Registers callbacks for requests to stop the server, and to load its models again."""

    def __call__(self, stop: Callable[[], object], reload: Callable[[], object] = ..., /) -> None: ...


def leave_when_asked() -> None:
    """From now on, until `call_when_asked`, a signal to stop ends the process at once, with exit code 0.

    For a process that has nothing to clean up yet. An exception would not do: it may be raised inside the import of a
    library, which turns it into another one, and the interpreter cannot exit while a thread is inside a library.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    for number in STOPPING:
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def call_when_asked(stop: Callable[[], object], reload: Callable[[], object] = lambda: None) -> None:
    """From now on, let the running event loop call `stop` at every signal to stop, and `reload` at SIGHUP.

    The loop's own `add_signal_handler` would not do: a loop restores the default when it closes, and the next signal
    would kill a process that is shutting down.
    """
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(stop))
    signal.signal(signal.SIGHUP, lambda number, frame: loop.call_soon_threadsafe(reload))


def ignore_all() -> None:
    """From now on, signals do nothing: the process is about to end anyway, and in order."""
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
