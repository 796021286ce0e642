"""The calls that use an engine's models: which may begin, and which are still to come to their end.

An engine that stops lets no call begin, but those that have begun go on within its time, by as many jobs as they need.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from charloom.engine.call_end import AtEnd, end_of_call
from charloom.engine.errors import Draining
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.rates import Rates


class CallsInProgress:
    """Lets calls begin; all of it belongs to an event loop.

    Args:
        rates: how fast callers may go
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._begun: set[AtEnd] = set()
        """Calls whose end is known and has not come."""
        self._draining = False
        self._all_ended = asyncio.Event()
        """Set while draining, once there are none, or nobody waits for them any longer."""

    async def begin(self) -> None:
        """Let the call that runs in this task begin; where it has, it goes on.

        Raises:
            QuotaExceeded: its caller owes too many tokens.
            Draining: no more calls begin.
        """
        at_end = end_of_call()
        if at_end in self._begun:
            return
        try:
            await self._rates.admit()
        except QuotaExceeded:
            if at_end not in self._begun:  # else another text of the call was let in meanwhile, and they are its tokens
                raise
        if at_end in self._begun:
            return
        if self._draining:
            raise Draining
        if at_end is not None:
            self._begun.add(at_end)
            at_end(partial(self._ended, at_end))

    async def drain(self, seconds: float) -> None:
        """Let no more calls begin, and wait up to `seconds` for the end of those that have."""
        self._draining = True
        if self._begun:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # before Python 3.11 they are two
                await asyncio.wait_for(self._all_ended.wait(), seconds)

    def end_now(self) -> None:
        """Do not wait any longer."""
        self._all_ended.set()

    def _ended(self, at_end: AtEnd) -> None:
        self._begun.discard(at_end)
        if self._draining and not self._begun:
            self._all_ended.set()
