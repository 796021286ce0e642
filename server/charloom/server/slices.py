"""Many log-probabilities in slices, of which one turn of the event loop gets a few, however many calls tell of them.

A slice is short, but one for each of fifty calls, all in the same turn of the loop, would keep everybody else waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from charloom.engine.loom.logprobs import Logprobs

SLICE, TURN = 1000, 2000
"""Log-probabilities of one slice, and of all slices in one turn of the loop, about: what it takes a thread one or two
milliseconds to put into a message, and two to four."""


class _Turn(threading.local):
    """What the slices in the present turn of this thread's event loop have."""

    loop: asyncio.AbstractEventLoop | None = None
    entries = 0

    def over(self) -> None:
        """The next turn begins."""
        self.loop, self.entries = None, 0


_turn = _Turn()


async def slices(logprobs: Logprobs) -> AsyncIterator[Logprobs]:
    """The same in order, some at a time, at least one; each slice when it is its turn."""
    start = 0
    while start < len(logprobs):
        each = 1 + len(logprobs[start].top)
        some = logprobs[start : start + max(1, SLICE // each)]
        await _turn_for(len(some) * each)
        yield some
        start += len(some)


async def _turn_for(entries: int) -> None:
    """Wait for a turn of the loop that has room for so many; the first slice of a turn may be of any size."""
    loop = asyncio.get_running_loop()
    while _turn.loop is loop and _turn.entries + entries > TURN:
        await asyncio.sleep(0)
    if _turn.loop is not loop:
        _turn.loop, _turn.entries = loop, 0
        loop.call_soon(_turn.over)
    _turn.entries += entries
