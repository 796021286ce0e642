from __future__ import annotations

import asyncio

import numpy as np

from charloom.engine.loom.logprobs import Block, Logprobs
from charloom.server.slices import SLICE, TURN, slices


def logprobs(tokens: int, alternatives: int) -> Logprobs:
    numbers, allowed = np.arange(tokens, dtype=np.int32), np.zeros(tokens, np.float32)
    tops = np.zeros((tokens, alternatives), np.int32)
    return Logprobs([Block(numbers, allowed, allowed, tops, tops.astype(np.float32))] if tokens else [])


async def test_slices_are_all_of_it_in_order() -> None:
    for count in (0, 1, 1000, 2501):
        told = [found async for some in slices(logprobs(count, 2)) for found in some]
        assert [found.token for found in told] == list(range(count))


async def test_one_turn_of_the_loop_has_a_few_slices_however_many_calls_there_are() -> None:
    turns, made = 0, {0: 0}
    over = False

    async def count_turns() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    async def call() -> None:
        async for some in slices(logprobs(400, 20)):
            made[turns] = made.get(turns, 0) + 21 * len(some)

    counting = asyncio.ensure_future(count_turns())
    await asyncio.gather(*(call() for _ in range(40)))
    over = True
    await counting
    assert sum(made.values()) == 40 * 400 * 21
    assert SLICE / 2 < max(made.values()) <= TURN


async def test_a_token_with_more_alternatives_than_a_turn_has_room_for_is_a_slice_too() -> None:
    assert [len(some) async for some in slices(logprobs(3, 2 * TURN))] == [1, 1, 1]


def test_a_loop_that_ended_in_the_middle_leaves_nothing_to_the_next() -> None:
    async def begun() -> None:
        async for _ in slices(logprobs(TURN, 0)):
            return

    for _ in range(5):
        asyncio.run(begun())


async def test_calls_that_wait_get_their_turns_in_order_and_one_that_is_cancelled_keeps_nobody_waiting() -> None:
    begun: list[int] = []

    async def call(number: int) -> None:
        async for _ in slices(logprobs(TURN, 0)):
            begun.append(number)

    calls = [asyncio.ensure_future(call(number)) for number in range(4)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert [begun.count(number) for number in range(4)] == [TURN // SLICE, begun.count(1), *[TURN // SLICE] * 2]
    assert begun.count(1) < TURN // SLICE
    firsts = [begun.index(number) for number in (0, 2, 3)]
    assert firsts == sorted(firsts)
