"""Upkeep: what is done again and again, and goes on where it fails once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def every(seconds: float, act: Callable[[], Awaitable[object]], problem: str, *, at_once: bool = False) -> None:
    """Do something now and then until this is cancelled. Where it fails, the log says so, and it is tried again.

    Args:
        seconds: from the end of one time to the next
        act: does it
        problem: what the log says where it fails, such as "leases were not renewed"
        at_once: whether the first time is now
    """
    if not at_once:
        await asyncio.sleep(seconds)
    while True:
        try:
            await act()
        except Exception:
            log.exception("%s; that is tried again in %g s", problem, seconds)
        await asyncio.sleep(seconds)
