"""Limits the tokens per second that callers read and generate, with a token bucket for each caller that has a limit.

A new call is refused while its caller's bucket is overdrawn by more than about a second's tokens; a running one is
slowed down until the bucket is no longer overdrawn (decision 0026). If servers share a ledger, each reports the tokens
of a caller to it several times a second, and takes over the level of the shared bucket; in between, and while the
ledger does not answer, it counts by itself.
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
"""Size of a bucket, in seconds of its rate: what a caller may use at once after a pause of this length."""
TOLERATED_SECONDS = 1.0
"""Debt that a caller may have when a call begins, in seconds of its rate: slowed streams always owe a little."""
SYNC_SECONDS = 0.2
"""Most age of the ledger's answer, in seconds."""
LEDGER_SECONDS = 0.5
"""Timeout of the ledger, in seconds."""
MOST_BUCKETS = 10_000
"""Number of buckets above which full ones are dropped now and then."""

AHEAD_SECONDS = 0.25
"""How far all generations of a caller together may run ahead of their readers, in seconds of its rate. Each gets an
equal part when it begins, so the sum is a little larger: earlier ones have larger parts."""
MESSAGE_SECONDS = 0.005
"""How far each generation may run ahead in any case, in seconds of the rate, so that messages are not too small."""


@runtime_checkable
class Ledger(Protocol):
    """Token buckets that several servers share."""

    async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
        """Take tokens from a caller's bucket; returns its level afterwards, negative if it is overdrawn.

        Args:
            name: of the caller's share
            tokens: how many; 0: only read the level
            rate: tokens per second that refill the bucket
            burst: tokens of a full bucket

        Raises:
            EngineError: it does not answer, or not in time; the tokens may or may not have been taken.
        """


class _Bucket:
    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.level = self.burst
        self.at = now
        """When it had this level."""
        self.untold = 0.0
        """Tokens that were not yet reported to the ledger."""
        self.asked_at = -math.inf
        """When the ledger was last asked."""
        self.generations = 0
        """Number of running generations."""
        self.telling: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def burst(self) -> float:
        return self.rate * BURST_SECONDS

    def fill(self, rate: float, now: float) -> None:
        """Refill it up to now, and set its rate. Debt from an earlier rate is kept."""
        self.rate = rate
        self.level = min(self.burst, self.level + (now - self.at) * rate)
        self.at = now


class Rates:
    """The buckets of one server. Use it from one event loop.

    Args:
        ledger: shared between servers; None: this server counts alone
        clock: a monotonic clock in seconds
    """

    def __init__(self, ledger: Ledger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._look_at = MOST_BUCKETS
        """Number of buckets at which full ones are dropped next."""
        self._away = False
        """Whether the ledger did not answer the last time."""

    async def admit(self) -> None:
        """Check that the present caller may begin a call.

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
        """The tokens in a caller's bucket, negative if it is overdrawn; None if it has no rate limit."""
        bucket = await self._asked(share)
        return None if bucket is None else bucket.level

    def meter(self, share: Share) -> Meter | None:
        """A meter for a generation of this caller; None if it has no rate limit."""
        bucket = self._bucket(share)
        return None if bucket is None else Meter(self, share, bucket)

    def spend(self, share: Share, tokens: int) -> float:
        """Count tokens that were read or generated; returns the seconds until the bucket is no longer overdrawn."""
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
        """Wait the time in which a caller's present debt is refilled; its other calls may make new debt meanwhile."""
        if (wait := self.spend(share, 0)) > 0:
            await asyncio.sleep(wait)

    def close(self) -> None:
        """Stop reporting to the ledger."""
        for bucket in self._buckets.values():
            if bucket.timer is not None:
                bucket.timer.cancel()
            if bucket.telling is not None:
                bucket.telling.cancel()

    async def _asked(self, share: Share) -> _Bucket | None:
        """A caller's bucket, synchronized with the ledger if the last time is a while ago; None if it has no limit."""
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
            if left is None:  # report the tokens later, but at most a full bucket of them
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
        """How many tokens a generation may run ahead of its reader, if it begins now."""
        seconds = max(MESSAGE_SECONDS, AHEAD_SECONDS / (self._bucket.generations + 1))
        return max(1, int(self._bucket.rate * seconds))

    def begin(self) -> None:
        """Count that the generation has begun."""
        self._bucket.generations += 1

    def spend(self, tokens: int) -> float:
        """As `Rates.spend`."""
        return self._rates.spend(self._share, tokens)

    def end(self) -> None:
        """Count that the generation has ended."""
        self._bucket.generations -= 1
