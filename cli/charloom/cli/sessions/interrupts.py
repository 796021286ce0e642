"""Ctrl-C while a call runs: it cancels the call, and only then raises KeyboardInterrupt.

Python raises it between any two steps of the main thread, also inside gRPC's code. If that is between the beginning of
a call and the start of the thread that waits for it, or between taking a lock and storing that it is taken, closing the
channel would wait for ever.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from typing_extensions import Self

from charloom.client import CharloomError

Cancel = Callable[[], object]


class Interrupts:
    """Handles Ctrl-C within this context manager, as the active one of its methods says; without one, it is ignored.

    If SIGINT is ignored or has another handler, that stays in place.
    """

    def __init__(self) -> None:
        self._raises = False
        self._arrived = False
        self._cancel: Cancel | None = None
        # The handler may interrupt itself; only this kind of queue is reentrant.
        self._to_call: queue.SimpleQueue[Cancel | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._call, name="charloom-interrupts", daemon=True)

    def __enter__(self) -> Self:
        in_main = threading.current_thread() is threading.main_thread()
        self._ours = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._thread.start()
        if self._ours:
            signal.signal(signal.SIGINT, self._arrive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._to_call.put(None)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within this, Ctrl-C raises KeyboardInterrupt at once; no code of gRPC may run in it."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @contextlib.contextmanager
    def postponed(self) -> Iterator[Callable[[Cancel], None]]:
        """Within this, Ctrl-C calls a function in another thread: the one passed last to the yielded function.

        KeyboardInterrupt is raised at the end of the block.
        """
        self._arrived = False
        try:
            yield self._cancels
        except CharloomError as problem:
            if self._arrived:
                raise KeyboardInterrupt from problem
            raise
        finally:
            self._cancel = None
        if self._arrived:
            raise KeyboardInterrupt

    def _cancels(self, cancel: Cancel) -> None:
        self._cancel = cancel
        if self._arrived:
            self._to_call.put(cancel)

    def _arrive(self, *_: Any) -> None:
        """In the main thread, between any two of its steps."""
        if self._raises:
            raise KeyboardInterrupt
        self._arrived = True
        if self._cancel is not None:
            self._to_call.put(self._cancel)

    def _call(self) -> None:
        while (cancel := self._to_call.get()) is not None:
            cancel()
