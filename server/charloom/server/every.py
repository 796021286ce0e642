"""Upkeep: work that is repeated, also after it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def every(seconds: float, act: Callable[[], Awaitable[object]], problem: str, *, at_once: bool = False) -> None:
    """Repeat an act until this is cancelled. A failure is logged, and the act is repeated all the same.

    Args:
        seconds: from the end of one run to the start of the next
        act: the work
        problem: the log's message for a failure, such as "leases were not renewed"
        at_once: whether the first run is now
    """
    if not at_once:
        await asyncio.sleep(seconds)
    while True:
        try:
            await act()
        except Exception:
            log.exception("%s; that is tried again in %g s", problem, seconds)
        await asyncio.sleep(seconds)
