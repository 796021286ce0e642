"""Questions and answers between two processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from charloom.server.processes.link import Link, LinkClosed, Refused


async def answer(question: str, given: dict[str, Any]) -> Any:
    if question == "later":
        await asyncio.sleep(0.05)
    elif question == "refuse":
        raise Refused("it does not")
    elif question == "break":
        raise KeyError("unexpected")
    elif question == "for ever":
        await asyncio.Event().wait()
    return [question, given]


@pytest.fixture
async def links() -> AsyncIterator[tuple[Link, Link]]:
    ends = socket.socketpair()
    one, other = await Link.over(ends[0], answer), await Link.over(ends[1], answer)
    yield one, other
    one.close()
    other.close()
    await asyncio.sleep(0)


async def test_both_sides_ask_at_once_and_each_answer_finds_its_question(links: tuple[Link, Link]) -> None:
    one, other = links
    asked = [side.ask(question, n=n) for n in range(20) for side in links for question in ("later", "now")]
    assert await asyncio.gather(*asked) == [
        [question, {"n": n}] for n in range(20) for _ in links for question in ("later", "now")
    ]
    long = "x" * 1_000_000
    assert await one.ask("now", text=long) == ["now", {"text": long}]
    other.tell("refuse")  # nobody waits for an answer, so there is none
    assert await other.ask("now") == ["now", {}]


async def test_what_is_refused_and_what_breaks_is_told(links: tuple[Link, Link]) -> None:
    one, _ = links
    with pytest.raises(Refused, match="it does not"):
        await one.ask("refuse")
    with pytest.raises(Refused, match="unexpected error: KeyError"):
        await one.ask("break")
    assert await one.ask("now") == ["now", {}]


async def test_whoever_waits_for_a_process_that_ends_is_told(links: tuple[Link, Link]) -> None:
    one, other = links
    waiting = asyncio.create_task(one.ask("for ever"))
    await asyncio.sleep(0.05)
    other.close()
    with pytest.raises(LinkClosed):
        await waiting
    assert one.closed.is_set()
    with pytest.raises(LinkClosed):
        await one.ask("now")
    one.tell("now")
