"""The limit of calls that run at a time on all transports together. A call above it is refused, with a reason."""

from __future__ import annotations

from charloom.engine.call_end import AtEnd
from charloom.engine.errors import Overloaded
from charloom.engine.parts import Parts
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.retry_after import SHORTEST, RetryAfter
from charloom.engine.shares import Share, current_share
from charloom.server.process_parts import part_of


class CallLimit:
    """Counts calls, and refuses those beyond a limit.

    Args:
        most: the most calls at a time, in the whole server; see `Parts`
        processes: number of the server's processes; this one takes its part of `most`, and of each caller's limit
    """

    def __init__(self, most: int, processes: int = 1) -> None:
        self._processes = processes
        self._most = part_of(most, processes)
        self._running = Parts(self._most)
        self._retry_after = RetryAfter()

    def begin(self, at_end: AtEnd) -> None:
        """Count the call of the present caller, until its end.

        Raises:
            QuotaExceeded: the caller has as many running calls as it may have.
            Overloaded: too many calls are running.
        """
        share = current_share()
        most, own = share.quota.calls, self._running.of(share)
        if most is not None and own >= part_of(most, self._processes):
            where = "" if self._processes == 1 else f" in one of {self._processes} processes, as many as it takes"
            problem = f"{own} calls of yours are running{where}"
            raise QuotaExceeded("calls", most, problem, "wait until one has ended", SHORTEST, used=own, asked=1)
        if not self._running.fits(share):
            raise Overloaded(f"{self._running.total} calls are running already", self._retry_after.refuse(0))
        self._running.add(share)
        at_end(lambda: self._end(share))

    def _end(self, share: Share) -> None:
        self._retry_after.served(int(self._running.total >= self._most))
        self._running.remove(share)
