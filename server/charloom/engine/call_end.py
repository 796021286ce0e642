"""Callbacks at the end of a call. A transport provides the way to register them, before the call reaches the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

log = logging.getLogger(__name__)

AtEnd = Callable[[Callable[[], None]], None]
"""Registers a callback for the end of a call."""

_at_end: ContextVar[AtEnd | None] = ContextVar("at_end", default=None)


class CallEnd:
    """Runs callbacks at the end of a call, each once, even if others raise.

    It then drops its references to them, and so to the call's model, because the transport's library may keep this
    object until garbage is collected.
    """

    def __init__(self) -> None:
        self._acts: list[Callable[[], None]] = []
        self._over = False

    def add(self, act: Callable[[], None]) -> None:
        """Register a callback; runs it at once if the end has come already. This method is an `AtEnd`."""
        self._acts.append(act)
        if self._over:
            self.come()

    def come(self) -> None:
        """Run the callbacks: the call has ended."""
        self._over = True
        acts, self._acts = self._acts, []
        for act in acts:
            try:
                act()
            except Exception:
                log.exception("what is done at the end of a call failed")


def set_end(at_end: AtEnd) -> None:
    """Set how callbacks are registered for the end of the call in this task; call it before the call begins."""
    _at_end.set(at_end)


def end_of_call() -> AtEnd | None:
    """Registers callbacks for the end of the call in this task; None if no transport has called `set_end`."""
    return _at_end.get()


def at_end_of_call(act: Callable[[], None]) -> None:
    """Register a callback for the end of the call in this task; without a known end it is never run."""
    if (at_end := end_of_call()) is not None:
        at_end(act)
