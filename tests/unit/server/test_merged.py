"""Several results at once."""

from __future__ import annotations

import asyncio

import pytest

from charloom.server.merged import together


async def test_works_run_at_the_same_time_and_their_results_keep_the_order() -> None:
    second_ran = asyncio.Event()

    async def first() -> str:
        await second_ran.wait()
        return "first"

    async def second() -> str:
        second_ran.set()
        return "second"

    assert await together([first(), second()]) == ["first", "second"]


async def test_where_one_fails_the_others_have_ended_before_it_is_told() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def patient() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("patient")

    async def failing() -> None:
        await begun.wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await together([patient(), failing()])
    assert ended == ["patient"]


async def test_works_end_with_whoever_waits_for_them() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def patient() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.append("patient")

    waiting = asyncio.create_task(together([patient()]))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["patient"]
