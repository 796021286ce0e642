"""Which calls begin, and how long an engine that stops waits for those that have."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from charloom.engine.call_end import CallEnd, set_end
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.errors import Draining
from charloom.engine.quotas import Quota, QuotaExceeded
from charloom.engine.rates import BURST_SECONDS, Ledger, Rates
from charloom.engine.shares import Share, set_share

RATE = 100.0
SHOP = Share("tenant shop", quota=Quota(tokens_per_second=RATE))


@pytest.fixture
def calls() -> CallsInProgress:
    return CallsInProgress(Rates())


async def begin(calls: CallsInProgress, end: CallEnd | None) -> None:
    """As the call with this end, whose context is its own."""

    async def call() -> None:
        if end is not None:
            set_end(end.add)
        await calls.begin()

    await copy_context().run(asyncio.ensure_future, call())


async def test_an_engine_waits_for_the_calls_that_have_begun_and_lets_only_them_go_on(calls: CallsInProgress) -> None:
    first, second = CallEnd(), CallEnd()
    await begin(calls, first)
    await begin(calls, second)
    draining = asyncio.ensure_future(calls.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await begin(calls, CallEnd())
    await begin(calls, first)
    first.come()
    with pytest.raises(Draining):
        await begin(calls, first)
    await asyncio.sleep(0)
    assert not draining.done()
    second.come()
    await asyncio.wait_for(draining, 30)


async def test_it_waits_no_longer_than_it_is_told(calls: CallsInProgress) -> None:
    end = CallEnd()
    await begin(calls, end)
    await asyncio.wait_for(calls.drain(0.01), 30)
    draining = asyncio.ensure_future(calls.drain(60))
    await asyncio.sleep(0)
    assert not draining.done()
    calls.end_now()
    await asyncio.wait_for(draining, 30)


async def test_it_does_not_wait_for_calls_whose_end_nobody_tells_or_that_are_over(calls: CallsInProgress) -> None:
    await begin(calls, None)
    over = CallEnd()
    over.come()
    await begin(calls, over)
    await asyncio.wait_for(calls.drain(60), 30)
    with pytest.raises(Draining):
        await begin(calls, None)


async def test_a_call_is_not_refused_for_the_tokens_that_it_used_itself() -> None:
    rates = Rates(clock=lambda: 1000.0)
    calls, end = CallsInProgress(rates), CallEnd()
    set_share(SHOP)
    await begin(calls, end)
    rates.spend(SHOP, int(RATE * (BURST_SECONDS + 100)))
    await begin(calls, end)
    with pytest.raises(QuotaExceeded):
        await begin(calls, CallEnd())
    with pytest.raises(QuotaExceeded):
        await begin(calls, None)
    end.come()
    with pytest.raises(QuotaExceeded):
        await begin(calls, end)


async def test_nor_where_its_texts_begin_together_and_the_ledger_answers_late() -> None:
    class Late(Ledger):
        async def spend(self, name: str, tokens: float, rate: float, burst: float) -> float:
            await asyncio.sleep(0)
            return burst

    rates = Rates(Late(), clock=lambda: 1000.0)
    calls = CallsInProgress(rates)
    set_share(SHOP)
    set_end(CallEnd().add)

    async def text() -> None:
        await calls.begin()
        rates.spend(SHOP, int(RATE * (BURST_SECONDS + 100)))

    await asyncio.gather(text(), text())
    rates.close()
