"""What is done at the end of a call; a transport says how, before the call reaches the engine."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

AtEnd = Callable[[Callable[[], None]], None]
"""Has something done at the end of a call."""

_at_end: ContextVar[AtEnd | None] = ContextVar("at_end", default=None)


def set_end(at_end: AtEnd) -> None:
    """Say how the call that runs in this task has something done at its end, before it begins."""
    _at_end.set(at_end)


def end_of_call() -> AtEnd | None:
    """How the call that runs in this task has something done at its end; None where nobody knows its end."""
    return _at_end.get()
