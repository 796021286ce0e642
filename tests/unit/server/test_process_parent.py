"""The parent of several processes, with children of which there is nothing but their end of the link."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charloom.server.processes import parent as parent_module
from charloom.server.processes.child import Child, ChildFailed
from charloom.server.processes.link import Link, Refused
from charloom.server.processes.parent import Parent
from charloom.server.settings import ServerSettings
from tests.waiting import eventually_async

Does = Callable[[str, dict[str, Any]], Awaitable[Any]]
SERVES = {"bundles": ["/models/small"], "digests": {"/models/small": "d1"}, "chosen": {}}


async def child_of(parent: Parent, number: int, does: Does) -> tuple[Child, Link]:
    """A child that takes calls, as the parent sees it, and its own end of the link."""
    ours, theirs = socket.socketpair()
    process: Any = SimpleNamespace(returncode=None, pid=number)
    child = parent._children[number] = Child(number, process, parent._answer)
    child.link = await Link.over(ours, child._answer)
    link = await Link.over(theirs, does)
    await link.ask("ready")
    return child, link


class Fake:
    """A child with a link, and no process; what it is told it keeps."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.serving: Any = None
        """What it is told to serve."""
        self.serves: Any = SERVES
        """What it says that it serves; an exception is raised."""
        self.starts, self.prepares = asyncio.Event(), asyncio.Event()
        """Set: it does so at once."""
        self.starts.set()
        self.prepares.set()
        self.fails = ""
        """Why it cannot start."""
        self.link: Link
        self.returncode: int | None = None
        self.pid = 1
        self._gone = asyncio.Event()

    async def __call__(self, question: str, given: dict[str, Any]) -> Any:
        self.heard.append(question)
        if question == "start":
            self.serving = given["serving"]
            await self.starts.wait()
            if self.fails:
                await self.link.ask("failed", problem=self.fails)
            else:
                await self.link.ask("ready", address="x")
        elif question == "prepare":
            await self.prepares.wait()
        elif question == "models":
            if isinstance(self.serves, Exception):
                raise self.serves
            return self.serves
        elif question == "stop":
            self.kill(0)
        return None

    def kill(self, status: int = -9) -> None:
        """End, as a process does."""
        self.returncode = status if self.returncode is None else self.returncode
        self._gone.set()

    def terminate(self) -> None:
        """End, as a process does that is asked to."""
        self.kill(-15)

    async def wait(self) -> None:
        """Until it has ended."""
        await self._gone.wait()


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return Parent(ServerSettings(processes=2, port=0, store=f"sqlite:{tmp_path / 'db'}"), [], [])


@pytest.fixture
async def fakes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[int, Fake]]:
    """The children that are started, by their numbers; those that a test puts there are taken."""
    made: dict[int, Fake] = {}
    links: list[Link] = []

    async def spawned(number: int, command: object, answer: Any) -> Child:
        fake: Any = made.setdefault(number, Fake())
        ours, theirs = socket.socketpair()
        child = Child(number, fake, answer)
        child.link, fake.link = await Link.over(ours, child._answer), await Link.over(theirs, fake)
        links.extend((child.link, fake.link))
        return child

    monkeypatch.setattr(Child, "spawned", spawned)
    yield made
    for link in links:
        link.close()
    await asyncio.sleep(0)


async def second_child_starting(parent: Parent, fakes: dict[int, Fake]) -> tuple[Fake, asyncio.Task[None]]:
    """The second of two children, which has heard that it is to start, and its start; the first one takes calls."""
    late = fakes[2] = Fake()
    late.starts.clear()
    await parent._start(1)
    starting = asyncio.create_task(parent._start(2))
    await eventually_async(lambda: "start" in late.heard)
    return late, starting


async def test_a_child_starts_while_a_change_waits_for_a_disk_and_takes_part_in_it(
    parent: Parent, fakes: dict[int, Fake]
) -> None:
    slow = fakes[1] = Fake()
    slow.prepares.clear()
    await parent._start(1)
    change = asyncio.create_task(slow.link.ask("change", change="load", on="/models/small", token=0))
    await eventually_async(lambda: "prepare" in slow.heard)
    await asyncio.wait_for(parent._start(2), 30)
    assert fakes[2].serving == SERVES
    slow.serves = {**SERVES, "digests": {"/models/small": "d2"}}
    slow.prepares.set()
    assert await asyncio.wait_for(change, 30) is None
    assert fakes[2].heard == ["start", "prepare", "decide"]
    assert parent._serving == slow.serves  # where all end at once, this is what starts


async def test_a_child_whose_start_a_change_has_overtaken_is_started_again(
    parent: Parent, fakes: dict[int, Fake]
) -> None:
    late, starting = await second_child_starting(parent, fakes)
    assert await fakes[1].link.ask("change", change="unload", on="small", token=0) is None
    with pytest.raises(ChildFailed, match="models have changed meanwhile"):
        await starting
    assert late.returncode == -signal.SIGTERM  # in order: it may take calls, and the word of it be on its way
    fakes[2] = Fake()
    fakes[1].serves = {"bundles": [], "digests": {}, "chosen": {"small": "seen"}}
    await parent._start(2)
    assert fakes[2].serving == fakes[1].serves


async def test_a_change_that_a_disk_holds_up_is_given_up_in_all_and_the_next_one_done(
    parent: Parent, fakes: dict[int, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = parent_module._refusal

    async def impatient(child: Child, question: str, seconds: float | None, **given: Any) -> str | None:
        late = child.number == 2 and question == "prepare"
        return await refusal(child, question, 0.05 if late else seconds, **given)

    stuck = fakes[2] = Fake()
    await parent._start(1)
    await parent._start(2)
    stuck.prepares.clear()
    with monkeypatch.context() as patched:
        patched.setattr(parent_module, "_refusal", impatient)
        refused = await asyncio.wait_for(fakes[1].link.ask("change", change="load", on="x", token=0), 30)
    assert refused == "process 2 was not done within 0.05 s; does the disk of the model answer?"
    stuck.prepares.set()
    assert await fakes[1].link.ask("change", change="unload", on="small", token=1) is None


async def test_a_change_that_no_child_can_take_part_in_is_not_done_and_ends_none_that_starts(
    parent: Parent, fakes: dict[int, Fake]
) -> None:
    late, starting = await second_child_starting(parent, fakes)
    async with parent._changing:
        change = asyncio.create_task(parent._change(parent._children[1], "load", "x", 0))
        fakes[1].kill()
    assert await change == "no process of this server takes calls now; try again"
    late.starts.set()
    await starting
    assert late.heard == ["start"]


async def test_a_child_that_could_not_start_is_none_of_those_that_are_told_anything(
    parent: Parent, fakes: dict[int, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charloom.server.processes.parent.SHORTEST_PAUSE", 0.01)
    await parent._start(1)
    keeping = asyncio.create_task(parent._keep(1))
    first, failing = fakes[1], Fake()
    failing.fails = "its bundle is gone"
    fakes[1] = failing
    first.kill()
    await eventually_async(lambda: failing.heard and not parent._children)
    keeping.cancel()


async def test_a_child_that_starts_is_told_a_reload_once_it_takes_calls(parent: Parent, fakes: dict[int, Fake]) -> None:
    late, starting = await second_child_starting(parent, fakes)
    parent._reload()
    await eventually_async(lambda: "reload" in fakes[1].heard)
    assert "reload" not in late.heard
    late.starts.set()
    await starting
    await eventually_async(lambda: "reload" in late.heard)


async def test_a_change_waits_until_all_children_have_taken_calls_once(
    parent: Parent, fakes: dict[int, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("call_when_asked", "ignore_all"):  # the signals are those of the process that runs the tests
        monkeypatch.setattr(f"charloom.server.processes.parent.{name}", lambda *asked: None)
    late = fakes[2] = Fake()
    late.starts.clear()
    serving = asyncio.create_task(parent.serve(lambda child: None))
    await eventually_async(lambda: parent.ready)
    change = asyncio.create_task(fakes[1].link.ask("change", change="load", on="x", token=0))
    await eventually_async(lambda: parent._changes)
    late.starts.set()
    assert await change is None
    assert [said for said in late.heard if said != "alive"] == ["start", "prepare", "decide"]
    parent._stopping.set()
    await serving


async def test_a_child_is_told_digests_while_others_serve_them_and_none_where_nobody_does(
    parent: Parent, fakes: dict[int, Fake]
) -> None:
    await parent._start(1)
    await parent._start(2)
    assert fakes[2].serving == SERVES
    fakes[1].serves = Refused("the folder does not answer")
    fakes[2].serves = None  # it stops
    with pytest.raises(ChildFailed, match="the others do not say what they serve: the folder does not answer"):
        await parent._start(3)
    fakes[1].serves = None
    await parent._start(4)
    assert fakes[4].serving == {**SERVES, "digests": {}}


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


@pytest.mark.parametrize("problem", [BlockingIOError("there is no process to give"), RuntimeError("unforeseen")])
async def test_a_child_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    tries, tried_again = 0, asyncio.Event()

    async def spawned(*_: object) -> Child:
        nonlocal tries
        tries += 1
        if tries == 2:
            tried_again.set()
        raise problem

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
    assert not parent._children  # a stop meanwhile is in order: it does not find the one that was killed
    keeping.cancel()


async def test_a_stop_finds_a_child_that_is_being_replaced_without_a_handler_of_signals_and_is_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("call_when_asked", "ignore_all"):  # the signals are those of the process that runs the tests
        monkeypatch.setattr(f"charloom.server.processes.parent.{name}", lambda *asked: None)
    serves = (
        "import json, socket, sys\n"
        "end = socket.socket(fileno=int(sys.argv[1])).makefile('rwb', 0)\n"
        'end.write(b\'{"question": "ready", "given": {"address": "x"}}\\n\')\n'
        "while (said := json.loads(end.readline()))['question'] != 'stop':\n"
        "    if 'number' in said: end.write(json.dumps({'number': said['number'], 'answer': None}).encode() + b'\\n')"
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


async def test_nothing_is_left_of_a_child_that_the_system_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = socket.socketpair()
    monkeypatch.setattr("charloom.server.processes.child.socket.socketpair", lambda: pair)
    with pytest.raises(FileNotFoundError):
        await Child.spawned(1, ["/nowhere"], no_answer)
    assert [end.fileno() for end in pair] == [-1, -1]


async def no_answer(*_: object) -> None:
    raise AssertionError("it asks nothing")
