"""Which calls begin, and how long an engine that stops waits for those that have."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from charloom.engine.call_end import CallEnd, set_end
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.errors import Draining
from charloom.engine.rates import Rates


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
