"""How a benchmark ends that is asked to: with all that it has started."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """While it is open, SIGTERM ends this program by an exception, so that processes end whose contexts it leaves.

    Where SIGTERM is handled already, as by an outer one of these, it stays so.
    """
    in_main = threading.current_thread() is threading.main_thread()
    ours = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGTERM) is _end:  # else it ends, and its other SIGTERM may yet come
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends it twice: to the program, and to its group
    sys.exit(128 + number)
