"""Signals that stop a training in order: Ctrl-C, the end of a job, a closed terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have each of them call `stop` meanwhile; SIGHUP stays ignored where it is, as under `nohup`."""
    stopping = [number for number in _STOPPING if number != signal.SIGHUP or not _is_ignored(number)]
    former = {number: signal.signal(number, lambda *_: stop()) for number in stopping}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def interrupt() -> None:
    """Stop as Ctrl-C does in a program that takes no signals.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
