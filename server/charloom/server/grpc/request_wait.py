"""How long the request of a call may take to arrive, where a call has one request."""

from __future__ import annotations

import asyncio
from typing import Any

from charloom.engine.errors import InvalidRequest

LOOK_SECONDS = 2.0
"""How often late calls are looked for."""


class RequestWait:
    """Reads requests, and ends calls whose request does not arrive in time. All of it belongs to an event loop.

    One timer serves all calls: a timer for each would be a twentieth of what a short call costs.
    """

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        """When the time of each call is up that waits, by the loop's clock."""
        self._late: set[asyncio.Task[Any]] = set()
        """Those that were cancelled for it."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Any, seconds: float) -> Any:
        """The bytes of the request, or `grpc.aio.EOF`.

        Raises:
            InvalidRequest: it did not arrive within so many seconds.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._ends[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(LOOK_SECONDS, self._look, loop)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if task in self._late:
                raise InvalidRequest("request", f"it did not arrive within {seconds:g} s") from None
            raise
        finally:
            del self._ends[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task in [task for task, end in self._ends.items() if now >= end]:
            self._late.add(task)
            task.cancel()
        self._timer = loop.call_later(LOOK_SECONDS, self._look, loop) if self._ends else None
