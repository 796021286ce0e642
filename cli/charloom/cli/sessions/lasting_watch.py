"""A watch for as long as there are lines: closed while there are none, and opened again where it broke off.

Does not know: where lines come from, nor what becomes of verdicts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from charloom.client import (
    CharloomError,
    Client,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    Overloaded,
    Unavailable,
    Verdict,
    Watch,
)

POLL, IDLE = 0.25, 20.0
"""Seconds between two checks while waiting, and seconds without lines after which a watch is closed."""
PATIENCE = 30.0
"""Most seconds between two tries to reach a server that went away."""
LISTEN = 1.0
"""Seconds between two questions for silent sources, which also keep the watch open."""
T = TypeVar("T")


class Stopped(Exception):
    """The command is stopping while the server is away, so the request gets no answer."""


class LastingWatch:
    """A watch that is open while there are lines, and opened again where a connection breaks.

    Args:
        client: of the server
        options: of `Client.watch`
        stopping: whether the command is to end
        patient: whether to wait for a server that went away, or is full
    """

    def __init__(self, client: Client, options: dict[str, Any], stopping: Callable[[], bool], *, patient: bool) -> None:
        self._client, self._options, self._stopping, self._patient = client, options, stopping, patient
        self._watch: Watch | None = None
        self._used = self._listened = 0.0

    def read(self, lines: Sequence[tuple[str, bytes]]) -> list[Verdict]:
        """Verdicts on the first of these sources and lines, as many as one message carries.

        So a line that was answered is never sent again, whatever becomes of the next message.

        Raises:
            Stopped: the server went away and the command is to end.
        """
        return self._asked(lambda watch: next(watch.read_by_message(lines)))

    def silent(self) -> list[str]:
        """Sources that have fallen silent, if that is asked for; asked once in a while.

        Raises:
            as `read`.
        """
        due = time.monotonic() - self._listened >= LISTEN
        if self._options["silent_after"] is None or self._watch is None or not due:
            return []
        self._listened = time.monotonic()
        return self._asked(lambda watch: watch.silent())

    def _asked(self, ask: Callable[[Watch], T]) -> T:
        """Ask the server, and again if it went away, until the command is stopped; returns the answer."""
        wait = 1.0
        while True:
            fresh = self._watch is None
            watch = self._watch = self._watch or self._client.watch(**self._options)
            try:
                answer = ask(watch)
            except DeadlineExceeded as problem:
                self._drop()
                # The server ends a watch that is idle for long; the next line opens it again.
                if fresh or problem.reason != "CLIENT_IDLE":
                    raise
            except (ConnectionFailed, Unavailable, Conflict, Overloaded) as problem:
                self._drop()
                if not (self._patient and self._may_help(problem)):
                    raise
                if isinstance(problem, Overloaded):
                    wait = max(wait, problem.retry_after or 0.0)
                print(f"{problem}; trying again in {wait:g} s", file=sys.stderr)
                until = time.monotonic() + wait
                while time.monotonic() < until and not self._stopping():
                    time.sleep(POLL)
                if self._stopping():
                    raise Stopped from problem
                wait = min(2 * wait, PATIENCE)
            else:
                self._used = time.monotonic()
                return answer

    def _may_help(self, problem: CharloomError) -> bool:
        """Whether time may help."""
        if isinstance(problem, Conflict):
            # The server may take a moment to notice that the previous call, which holds the name, has broken off.
            return self._used > 0
        return not isinstance(problem, Overloaded) or problem.retry_after is not None

    def rest(self) -> None:
        """Close the watch if there were no lines for a while."""
        if time.monotonic() - self._used > IDLE:
            self._close()

    def _close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            with suppress(CharloomError):  # all lines are answered, so it may have broken off
                watch.close()

    def _drop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def __enter__(self) -> LastingWatch:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._drop()
        else:
            self._close()
