"""What belongs to an event loop is of no use in another one: what is said of that, wherever it is tried."""

from __future__ import annotations

import asyncio

_OTHER_LOOP = (
    "this AsyncClient belongs to the event loop of its first call, which is another one; "
    "make a client in each asyncio.run, or all calls in one"
)


def require_running(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse what is asked for in another event loop than this one; raises RuntimeError."""
    if asyncio.get_running_loop() is not loop:
        raise RuntimeError(_OTHER_LOOP)
