"""The parent of several processes, with children of which there is nothing but their end of the link."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charloom.server.processes.child import Child, ChildFailed
from charloom.server.processes.link import Link
from charloom.server.processes.parent import Parent
from charloom.server.settings import ServerSettings

Does = Callable[[str, dict[str, Any]], Awaitable[Any]]


async def child_of(parent: Parent, number: int, does: Does) -> tuple[Child, Link]:
    """A child that takes calls, as the parent sees it, and its own end of the link."""
    ours, theirs = socket.socketpair()
    process: Any = SimpleNamespace(returncode=None, pid=number)
    child = parent._children[number] = Child(number, process, parent._answer)
    child.link = await Link.over(ours, child._answer)
    link = await Link.over(theirs, does)
    await link.ask("ready")
    return child, link


async def test_a_change_is_decided_even_where_the_child_that_asked_ends_meanwhile(tmp_path: Path) -> None:
    parent = Parent(ServerSettings(processes=2, store=f"sqlite:{tmp_path / 'db'}"), [], [])
    preparing, go_on = asyncio.Event(), asyncio.Event()
    decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def nothing(question: str, given: dict[str, Any]) -> None:
        pass

    async def slow(question: str, given: dict[str, Any]) -> None:
        if question == "prepare":
            preparing.set()
            await go_on.wait()
        elif question == "decide":
            decided.set_result(given["go"])

    asking, asks = await child_of(parent, 1, nothing)
    other, hears = await child_of(parent, 2, slow)
    change = asyncio.create_task(asks.ask("change", change="reload", on="small", token=0))
    await asyncio.wait_for(preparing.wait(), 30)
    asking.link.close()  # as when its process is gone
    go_on.set()
    assert await asyncio.wait_for(decided, 30)
    with pytest.raises(ConnectionError):
        await change
    for link in (asks, hears, other.link):
        link.close()


async def test_a_child_that_the_system_cannot_start_now_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, tried_again = 0, asyncio.Event()

    async def spawned(*_: object) -> Child:
        nonlocal tries
        tries += 1
        if tries == 2:
            tried_again.set()
        raise BlockingIOError("there is no process to give")

    async def ended() -> int:
        return 0

    monkeypatch.setattr(Child, "spawned", spawned)
    monkeypatch.setattr("charloom.server.processes.parent.SHORTEST_PAUSE", 0.01)
    parent = Parent(ServerSettings(processes=2, store=f"sqlite:{tmp_path / 'db'}"), [], [])
    link: Any = SimpleNamespace(close=lambda: None, closed=asyncio.Event())
    process: Any = SimpleNamespace(returncode=-9, pid=1, wait=ended, kill=lambda: None)
    child = parent._children[1] = Child(1, process, parent._answer)
    child.link = link
    keeping = asyncio.create_task(parent._keep(1))
    await asyncio.wait_for(tried_again.wait(), 30)
    keeping.cancel()


async def test_a_stop_finds_a_child_that_is_being_replaced_without_a_handler_of_signals_and_is_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("call_when_asked", "ignore_all"):  # the signals are those of the process that runs the tests
        monkeypatch.setattr(f"charloom.server.processes.parent.{name}", lambda *asked: None)
    serves = (
        "import socket, sys\n"
        "end = socket.socket(fileno=int(sys.argv[1])).makefile('rwb', 0)\n"
        'end.write(b\'{"question": "ready", "given": {"address": "x"}}\\n\')\n'
        "while b'stop' not in end.readline(): pass"
    )

    async def keep(parent: Parent, number: int) -> None:
        if number == 2:
            command = [sys.executable, "-c", "import time; time.sleep(600)"]
            parent._children[3] = await Child.spawned(3, command, parent._answer)
            parent._stopping.set()

    monkeypatch.setattr(Parent, "_keep", keep)
    settings = ServerSettings(processes=2, port=0, store=f"sqlite:{tmp_path / 'db'}")
    parent = Parent(settings, [], [sys.executable, "-c", serves])
    await parent.serve(lambda child: None)
    assert [child.status for child in parent._children.values()] == [0, 0, -signal.SIGTERM]


async def test_a_child_that_hangs_while_it_starts_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charloom.server.processes.child.START_SECONDS", 0.5)
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]
    parent = Parent(ServerSettings(processes=2, store=f"sqlite:{tmp_path / 'db'}"), [], command)
    with pytest.raises(ChildFailed, match=r"a process did not take calls within 0\.5 s"):
        await parent._start(1)
    assert parent._children[1].status == -signal.SIGKILL
    assert not parent.ready


async def test_a_process_that_ended_its_link_and_goes_on_hangs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charloom.server.processes.child.BEAT_SECONDS", 0.01)
    command = [sys.executable, "-c", "import os, sys, time; os.close(int(sys.argv[1])); time.sleep(600)"]
    child = await Child.spawned(1, command, no_answer)
    assert await asyncio.wait_for(child.over(), 30)
    await child.gone()


async def no_answer(*_: object) -> None:
    raise AssertionError("it asks nothing")
