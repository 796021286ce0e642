"""What is done at the end of a call; a transport says how, before the call reaches the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

log = logging.getLogger(__name__)

AtEnd = Callable[[Callable[[], None]], None]
"""Has something done at the end of a call."""

_at_end: ContextVar[AtEnd | None] = ContextVar("at_end", default=None)


class CallEnd:
    """Does what was added when the end has come: each once, whatever becomes of the others.

    Then it forgets them, and with them the call's model: a library may keep what it calls at the end until garbage is
    collected.
    """

    def __init__(self) -> None:
        self._acts: list[Callable[[], None]] = []
        self._over = False

    def add(self, act: Callable[[], None]) -> None:
        """Have something done, at once where the end has come already; this is an `AtEnd`."""
        self._acts.append(act)
        if self._over:
            self.come()

    def come(self) -> None:
        """The end has come."""
        self._over = True
        acts, self._acts = self._acts, []
        for act in acts:
            try:
                act()
            except Exception:
                log.exception("what is done at the end of a call failed")


def set_end(at_end: AtEnd) -> None:
    """Say how the call that runs in this task has something done at its end, before it begins."""
    _at_end.set(at_end)


def end_of_call() -> AtEnd | None:
    """How the call that runs in this task has something done at its end; None where nobody knows its end."""
    return _at_end.get()


def at_end_of_call(act: Callable[[], None]) -> None:
    """Have something done at the end of the call that runs in this task; where nobody knows its end, it is not done."""
    if (at_end := end_of_call()) is not None:
        at_end(act)
