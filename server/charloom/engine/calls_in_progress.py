"""Admits calls to an engine, and counts those in progress.

An engine that stops admits no call, but those that have begun continue for some time, with as many jobs as they need.
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
    """Admits calls. Use it from one event loop.

    Args:
        rates: the token rates of callers
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._begun: set[AtEnd] = set()
        """Calls in progress, of those whose end is known."""
        self._draining = False
        self._all_ended = asyncio.Event()
        """Set while draining, when no calls are left or `end_now` was called."""

    async def begin(self) -> None:
        """Admit the call that runs in this task; does nothing if it has begun already.

        Raises:
            QuotaExceeded: its caller owes too many tokens.
            Draining: the engine is stopping.
        """
        at_end = end_of_call()
        if at_end in self._begun:
            return
        try:
            await self._rates.admit()
        except QuotaExceeded:
            if at_end not in self._begun:  # else another text of this call was admitted meanwhile, and owes the tokens
                raise
        if at_end in self._begun:
            return
        if self._draining:
            raise Draining
        if at_end is not None:
            self._begun.add(at_end)
            at_end(partial(self._ended, at_end))

    async def drain(self, seconds: float) -> None:
        """Admit no more calls, and wait up to `seconds` for those in progress."""
        self._draining = True
        if self._begun:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # before Python 3.11 they are two
                await asyncio.wait_for(self._all_ended.wait(), seconds)

    def end_now(self) -> None:
        """Let `drain` return at once."""
        self._all_ended.set()

    def _ended(self, at_end: AtEnd) -> None:
        self._begun.discard(at_end)
        if self._draining and not self._begun:
            self._all_ended.set()
