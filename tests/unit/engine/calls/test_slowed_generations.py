"""Generations of a caller that may have only so many tokens a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from charloom.bundle import Bundle
from charloom.engine.calls.generation import Generation
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.quotas import Quota, QuotaExceeded
from charloom.engine.rates import AHEAD_SECONDS, BURST_SECONDS
from charloom.engine.shares import Share, set_share
from tests.waiting import eventually

RATE = 50.0
SAVED = int(RATE * BURST_SECONDS)
SHOP = Share("tenant shop", quota=Quota(tokens_per_second=RATE))


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)])
    yield engine
    await engine.drain(0)


async def begin(engine: Engine) -> Generation:
    set_share(SHOP)
    return await engine.generating.generate(GenerationRequest(max_tokens=60_000))


async def characters(generations: list[Generation], seconds: float) -> int:
    """How many come in so many seconds, or in more until what was saved is used up; after which they are cancelled."""
    count = 0

    async def read(generation: Generation) -> None:
        nonlocal count
        async for delta in generation:
            count += len(delta.text)

    reading = asyncio.gather(*(read(one) for one in generations))
    await asyncio.sleep(seconds)
    while count <= SAVED:
        await asyncio.sleep(0.01)
    for one in generations:
        one.cancel()
    await reading
    return count


async def test_many_at_once_get_no_more_than_one(engine: Engine) -> None:
    began, generations = time.monotonic(), []
    for _ in range(40):
        try:
            generations.append(await begin(engine))
        except QuotaExceeded:
            break
    count = await characters(generations, 3)
    assert len(generations) > 5
    assert count < SAVED + RATE * (time.monotonic() - began + 3), "and a token or more of each ahead"


async def test_one_that_was_cancelled_leaves_nothing_behind(engine: Engine) -> None:
    generation = await begin(engine)
    while generation._slowed is None:
        await generation.__anext__()
    slowed, meter = generation._slowed, engine.rates.meter(SHOP)
    assert meter is not None
    assert generation._row.slowed
    assert meter.ahead == int(RATE * AHEAD_SECONDS / 2)
    generation.cancel()
    with pytest.raises(StopAsyncIteration):
        await generation.__anext__()
    loom = engine.models[0].loom
    await asyncio.to_thread(eventually, lambda: not loom.live)
    await asyncio.to_thread(eventually, lambda: slowed.cancelled() and meter.ahead == int(RATE * AHEAD_SECONDS))


async def test_one_that_may_go_on_is_not_taken_for_one_that_nobody_reads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of the loom look at their rows at any time, also while it is told of what was read."""
    generation = await begin(engine)
    while generation._slowed is None:
        await generation.__anext__()
    slowed, took = list[bool](), generation._row.took

    def watched(tokens: int) -> None:
        slowed.append(generation._row.slowed)
        took(tokens)

    monkeypatch.setattr(generation._row, "took", watched)
    generation._go_on()
    assert slowed == [True]
    assert not generation._row.slowed
    generation.cancel()
