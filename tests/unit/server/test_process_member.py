"""What a child does for its parent, with a parent of which there is nothing but its end of the link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from charloom.engine.errors import Draining
from charloom.engine.model_errors import ModelBusy
from charloom.server.group import ProcessRefused
from charloom.server.model_changes import Agreed, Change
from charloom.server.processes.link import Link, Refused
from charloom.server.processes.member import Member

LOAD = {"number": 0, "change": "load", "on": "small/2", "token": 0}


class Models:
    """Changes no models."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        """Whether the disk of the model of `LOAD` does."""
        self.answers.set()
        self.stopped = False
        self.loads: list[str] = []
        """Those that go on, and for which others wait."""

    def changing(self, name: str) -> bool:
        """None is changed by anybody else."""
        return False

    async def change(self, change: Change, on: str, agreed: Agreed) -> str:
        """Takes as long as the disk."""
        if on == LOAD["on"]:
            await self.answers.wait()
        if self.stopped:
            raise Draining
        await agreed()
        return on


class Server:
    """Serves nothing."""

    async def failed(self) -> None:
        """It never does."""
        await asyncio.Event().wait()

    async def serves(self) -> dict[str, Any]:
        """No models."""
        return {"bundles": []}


class Joined(NamedTuple):
    """A member, and what is around it."""

    member: Member
    models: Models
    parent: Link
    asked: asyncio.Queue[dict[str, Any]]
    """What it asks of its parent."""
    answers: asyncio.Queue[str | None]
    """And what it is answered."""


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[str | None] = asyncio.Queue()

    async def answer(question: str, given: dict[str, Any]) -> Any:
        if question != "change":
            return None
        asked.put_nowait(given)
        return await answers.get()

    ours, theirs = socket.socketpair()
    parent, member, models, server = await Link.over(ours, answer), Member(theirs, [], [], {}), Models(), Server()
    as_is: Any = (models, server)
    member.join(as_is[0])
    member.ready(as_is[1])
    yield Joined(member, models, parent, asked, answers)
    for task in member._watching:
        task.cancel()
    parent.close()
    (await member._parent()).close()
    await asyncio.sleep(0)


async def test_a_process_that_stops_keeps_the_others_from_no_change_and_is_no_example_for_a_new_one(
    joined: Joined,
) -> None:
    member, models, parent, *_ = joined
    assert await parent.ask("models") == {"bundles": []}
    await parent.ask("prepare", **LOAD)  # before
    await parent.ask("stop")
    models.stopped = True
    await parent.ask("decide", number=0, go=True)
    await parent.ask("prepare", **(LOAD | {"number": 1}))
    await parent.ask("decide", number=1, go=True)
    assert await parent.ask("models") is None
    with pytest.raises(Draining):
        await member.change(Change.LOAD, "small/2")


async def test_whoever_asks_for_the_same_again_is_told_that_it_goes_on(joined: Joined) -> None:
    member, _, parent, _, answers = joined
    await parent.ask("prepare", **LOAD)
    with pytest.raises(ModelBusy):
        await member.change(Change.LOAD, "small/2")
    await parent.ask("decide", number=0, go=True)
    answers.put_nowait(None)
    with pytest.raises(Draining):  # the parent did not have it prepare that
        await member.change(Change.LOAD, "small/2")


async def test_whoever_asked_is_told_that_a_change_was_given_up_though_the_disk_does_not_answer(
    joined: Joined,
) -> None:
    member, models, parent, asked, answers = joined
    models.answers.clear()
    change = asyncio.create_task(member.change(Change.LOAD, "small/2"))
    token = (await asked.get())["token"]
    prepares = asyncio.create_task(parent.ask("prepare", **(LOAD | {"token": token})))
    while not member._acts:
        await asyncio.sleep(0.01)
    parent.tell("decide", number=0, go=False)
    answers.put_nowait("it was not done")
    with pytest.raises(ProcessRefused, match="it was not done"):
        await asyncio.wait_for(change, 30)
    models.answers.set()
    await asyncio.gather(prepares, return_exceptions=True)


async def test_no_load_waits_for_one_that_was_given_up_and_goes_on(joined: Joined) -> None:
    member, models, parent, *_ = joined

    async def prepared(number: int, change: str, on: str) -> None:
        try:
            await asyncio.wait_for(parent.ask("prepare", number=number, change=change, on=on, token=None), 30)
        finally:
            await asyncio.wait_for(parent.ask("decide", number=number, go=False), 30)

    models.answers.clear()
    stuck = asyncio.create_task(parent.ask("prepare", **LOAD))
    while not member._acts:
        await asyncio.sleep(0.01)
    parent.tell("decide", number=0, go=False)
    await prepared(1, "load", "other/1")  # the disk answers nobody who reads: that holds up no other load
    with pytest.raises(Refused, match=r"a load of 'small/2' that was given up still goes on in process \d+; try again"):
        await prepared(2, "load", "small/2")
    models.loads.append("small")
    with pytest.raises(Refused, match="a load of 'small/2' that was given up"):
        await prepared(3, "load", "other/1")
    await prepared(4, "unload", "other")
    models.answers.set()
    await asyncio.gather(stuck, return_exceptions=True)
    await prepared(5, "load", "other/1")
