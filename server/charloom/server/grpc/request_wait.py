"""Limits how long the request of a unary call may take to arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from charloom.engine.errors import InvalidRequest

LOOK_SECONDS = 2.0
"""How often late calls are looked for."""


class RequestWait:
    """Reads requests, and ends calls whose request does not arrive in time. Belongs to one event loop.

    One timer serves all calls: a timer per call would be a twentieth of the cost of a short call.
    """

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        """For each waiting call, the time on the loop's clock at which it is late."""
        self._late: set[asyncio.Task[Any]] = set()
        """Tasks that were cancelled because they were late."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Any, seconds: float) -> Any:
        """Return the bytes of the request, or `grpc.aio.EOF`.

        Raises:
            InvalidRequest: it did not arrive within `seconds`.
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
