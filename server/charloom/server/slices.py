"""Splits log-probabilities into slices, of which all calls together process a few per turn of the event loop.

One slice is quick, but one for each of fifty calls in the same turn of the loop would delay all other calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from charloom.engine.loom.logprobs import Logprobs

SLICE, TURN = 250, 500
"""About how many log-probabilities one slice has, and all slices in one turn of the loop. Encoding a slice takes a
third of a millisecond on an idle processor, and several times as long on one that decodes too."""


async def slices(logprobs: Logprobs) -> AsyncIterator[Logprobs]:
    """Yield the log-probabilities in order, in one or more slices, each when it is its turn."""
    start = 0
    while start < len(logprobs):
        each = 1 + len(logprobs[start].top)
        some = logprobs[start : start + max(1, SLICE // each)]
        await _turns().room_for(len(some) * each)
        yield some
        start += len(some)


class _Turns:
    """Gives slices their turns of an event loop, in the order in which they ask."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._entries = 0
        """Of the slices that have got the present turn."""
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def room_for(self, entries: int) -> None:
        """Wait for a turn that has room for so many; the first slice of a turn may be of any size."""
        if not self._waiting and self._has_room(entries):
            if not self._entries:
                self.loop.call_soon(self._next)
            self._entries += entries
            return
        turn = self.loop.create_future()
        self._waiting.append((entries, turn))
        await turn

    def _has_room(self, entries: int) -> bool:
        return not self._entries or self._entries + entries <= TURN

    def _next(self) -> None:
        """The next turn begins."""
        self._entries = 0
        while self._waiting and self._has_room(self._waiting[0][0]):
            entries, turn = self._waiting.popleft()
            if not turn.done():  # its call may be over
                turn.set_result(None)
                self._entries += entries
        if self._entries:
            self.loop.call_soon(self._next)


class _Local(threading.local):
    turns: _Turns | None = None
    """Of this thread's event loop."""


_local = _Local()


def _turns() -> _Turns:
    loop = asyncio.get_running_loop()
    if _local.turns is None or _local.turns.loop is not loop:
        _local.turns = _Turns(loop)
    return _local.turns
