"""How many tokens a second callers may have read and generated: a token bucket for each caller that has such a limit.

A call is refused while its caller owes more than a moment's tokens; one that runs is slowed down until nothing is owed
(decision 0026). Where servers share a ledger, each tells it of a caller's tokens several times a second, and goes on
with what is left of all that they share; in between, and while the ledger is away, it counts by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from charloom.engine.errors import EngineError
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.shares import Share, current_share

log = logging.getLogger(__name__)

BURST_SECONDS = 10.0
"""Of its rate, what a caller may use at once after it has used nothing for as long."""
TOLERATED_SECONDS = 1.0
"""Of its rate, what it may owe when a call begins: streams that are slowed down owe some all the time."""
SYNC_SECONDS = 0.2
"""How old what the ledger said may be."""
LEDGER_SECONDS = 0.5
"""How long its answer is waited for."""
MOST_BUCKETS = 10_000
"""From so many on, those that are full again are forgotten now and then."""

AHEAD_SECONDS = 0.25
"""Of its rate, what all its generations together may go ahead of their readers, each by its part: about so much, since
those that began when there were fewer have larger parts."""
MESSAGE_SECONDS = 0.005
"""Of its rate, what each may go ahead however many they are, so that their messages are not too many."""


@runtime_checkable
class Ledger(Protocol):
    """Buckets that several servers share."""

    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        """Take tokens from a caller's bucket; returns what is left in it, below 0 what is owed.

        Args:
            name: of the caller's share
            tokens: how many, 0 to look only
            rate: how many come back a second
            burst: how many a full bucket has

        Raises:
            EngineError: it does not answer, or not in time; they may have been taken, or not.
        """


class _Bucket:
    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.level = self.burst
        self.at = now
        """When it had this level."""
        self.untold = 0.0
        """Tokens that the ledger does not know of."""
        self.asked_at = -math.inf
        """When it was asked last."""
        self.generations = 0
        """How many run."""
        self.telling: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def burst(self) -> float:
        return self.rate * BURST_SECONDS

    def fill(self, rate: float, now: float) -> None:
        """Let what has come back since be in it. What was owed at another rate stays owed."""
        self.rate = rate
        self.level = min(self.burst, self.level + (now - self.at) * rate)
        self.at = now


class Rates:
    """The buckets of one server; all of it belongs to an event loop.

    Args:
        ledger: what servers share; None: this one counts alone
        clock: seconds that never go back
    """

    def __init__(self, ledger: Ledger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._look_at = MOST_BUCKETS
        """With so many buckets, those that are full are forgotten."""
        self._away = False
        """Whether the ledger did not answer when it was asked last."""

    async def admit(self) -> None:
        """Let a call of the present caller begin.

        Raises:
            QuotaExceeded: it owes too many tokens.
        """
        bucket = await self._asked(current_share())
        if bucket is None:
            return
        rate, level = bucket.rate, bucket.level
        tolerated = TOLERATED_SECONDS + bucket.generations * MESSAGE_SECONDS
        if level < -rate * tolerated:
            seconds = math.ceil(-level / rate * 10) / 10
            problem = f"you have used {-level:.0f} tokens too many"
            raise QuotaExceeded("tokens_per_second", rate, problem, f"try again in {seconds:g} s", seconds, owed=-level)

    async def level(self, share: Share) -> float | None:
        """How many tokens a caller may use at once, below 0 what it owes; None where it has no such limit."""
        bucket = await self._asked(share)
        return None if bucket is None else bucket.level

    def meter(self, share: Share) -> Meter | None:
        """Counts the tokens of a generation; None where the caller has no such limit."""
        bucket = self._bucket(share)
        return None if bucket is None else Meter(self, share, bucket)

    def spend(self, share: Share, tokens: int) -> float:
        """Count tokens that were read or generated; returns the seconds until what is owed has come back."""
        bucket = self._bucket(share)
        if bucket is None:
            return 0.0
        bucket.level -= tokens
        if self._ledger is not None:
            bucket.untold += tokens
            if bucket.timer is None:
                loop, wait = asyncio.get_running_loop(), bucket.asked_at + SYNC_SECONDS - self._clock()
                bucket.timer = loop.call_later(max(0.0, wait), self._tell, share.name, bucket, self._ledger)
        return max(0.0, -bucket.level / bucket.rate)

    async def pace(self, share: Share) -> None:
        """Wait for as long as it takes until what a caller owes now has come back, whatever its other calls use."""
        if (wait := self.spend(share, 0)) > 0:
            await asyncio.sleep(wait)

    def close(self) -> None:
        """Tell the ledger nothing any more."""
        for bucket in self._buckets.values():
            if bucket.timer is not None:
                bucket.timer.cancel()
            if bucket.telling is not None:
                bucket.telling.cancel()

    async def _asked(self, share: Share) -> _Bucket | None:
        """A caller's bucket, after the ledger was asked where that is a while ago; None where it has no such limit."""
        bucket, ledger = self._bucket(share), self._ledger
        if bucket is None or ledger is None or self._away:
            return bucket
        if self._clock() - bucket.asked_at > SYNC_SECONDS:
            await asyncio.shield(self._tell(share.name, bucket, ledger))
        return bucket

    def _bucket(self, share: Share) -> _Bucket | None:
        rate, now = share.quota.tokens_per_second, self._clock()
        if rate is None:
            return None
        bucket = self._buckets.get(share.name)
        if bucket is None:
            if len(self._buckets) >= self._look_at:
                self._forget_full(now)
                self._look_at = max(MOST_BUCKETS, 2 * len(self._buckets))
            bucket = self._buckets[share.name] = _Bucket(rate, now)
        bucket.fill(rate, now)
        return bucket

    def _forget_full(self, now: float) -> None:
        for name, bucket in list(self._buckets.items()):
            bucket.fill(bucket.rate, now)
            idle = not bucket.generations and bucket.timer is None and bucket.telling is None
            if idle and bucket.level >= bucket.burst:
                del self._buckets[name]

    def _tell(self, name: str, bucket: _Bucket, ledger: Ledger) -> asyncio.Task[None]:
        if bucket.timer is not None:
            bucket.timer.cancel()
            bucket.timer = None
        if bucket.telling is None:
            bucket.telling = asyncio.get_running_loop().create_task(self._told(name, bucket, ledger))
        return bucket.telling

    async def _told(self, name: str, bucket: _Bucket, ledger: Ledger) -> None:
        untold, bucket.untold = bucket.untold, 0.0
        left: float | None = None
        try:
            asking = ledger.spend(name, untold, bucket.rate, bucket.burst)
            left = await asyncio.wait_for(asking, LEDGER_SECONDS)
        except (EngineError, asyncio.TimeoutError) as problem:
            self._note(problem if isinstance(problem, EngineError) else f"no answer within {LEDGER_SECONDS:g} s")
        else:
            bucket.fill(bucket.rate, self._clock())
            bucket.level = min(bucket.burst, left - bucket.untold)
            self._note(None)
        finally:
            if left is None:  # it is told later what was used, but no more of it than a full bucket
                bucket.untold = min(bucket.burst, bucket.untold + untold)
            bucket.asked_at, bucket.telling = self._clock(), None

    def _note(self, problem: object) -> None:
        if problem is not None and not self._away:
            log.warning("tokens per second are not counted together, each server counts its own: %s", problem)
        elif problem is None and self._away:
            log.info("tokens per second are counted together again")
        self._away = problem is not None


class Meter:
    """Counts the tokens of one generation, from `begin` to `end`; made by `Rates.meter`."""

    def __init__(self, rates: Rates, share: Share, bucket: _Bucket) -> None:
        self._rates = rates
        self._share = share
        self._bucket = bucket

    @property
    def ahead(self) -> int:
        """How many tokens it may go ahead of its reader, if it begins now."""
        seconds = max(MESSAGE_SECONDS, AHEAD_SECONDS / (self._bucket.generations + 1))
        return max(1, int(self._bucket.rate * seconds))

    def begin(self) -> None:
        """It has begun."""
        self._bucket.generations += 1

    def spend(self, tokens: int) -> float:
        """As `Rates.spend`."""
        return self._rates.spend(self._share, tokens)

    def end(self) -> None:
        """It has ended."""
        self._bucket.generations -= 1
