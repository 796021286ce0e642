"""A child: one process of a server that has several, and its messages to and from the parent.

A change of models is a two-phase commit by the parent: all children prepare it up to the point where nothing can fail
any more, then the parent decides whether they carry it out. Children obey their parent alone: a terminal or a service
manager signals all processes, and the parent passes each signal on once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from charloom.engine.errors import Draining, EngineError, shown
from charloom.engine.model_errors import ModelBusy, ModelUnusable
from charloom.server.app import Server
from charloom.server.group import Answer, ProcessRefused
from charloom.server.model_changes import Change, Loaded, ModelChanges
from charloom.server.model_folder import Signature
from charloom.server.processes.link import Link, LinkClosed, Refused
from charloom.server.signals import STOPPING

log = logging.getLogger(__name__)


class NotAgreed(Exception):
    """This process could have done a change that another refused."""


class _Act:
    """A change that this process takes part in; `on` as of `Group.change`."""

    def __init__(self, on: str) -> None:
        self.on = on
        self.reached = asyncio.Event()
        """Set once it waits for the decision."""
        self.decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Task[Loaded]

    async def agreed(self) -> None:
        self.reached.set()
        if not await asyncio.shield(self.decided):
            raise NotAgreed("another process refused")

    async def prepared(self) -> None:
        """Wait until the change waits for the decision, or is over."""
        reached = asyncio.create_task(self.reached.wait())
        await asyncio.wait({reached, self.done}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()

    async def result(self) -> Loaded:
        """Return the result of the change; raises its error."""
        try:
            return await asyncio.shield(self.done)
        except asyncio.CancelledError:
            if self.done.cancelled():
                raise Draining from None
            raise


class Member:
    """The `Group` of a child, and what it does for its parent.

    Args:
        end: of the link to the parent
        sealing_keys: keys for sealing states if the settings name none
        names: names of models in the order of the other processes
        chosen: what the others have chosen from the folder of models
    """

    def __init__(
        self,
        end: socket.socket,
        sealing_keys: Sequence[bytes],
        names: Sequence[str],
        chosen: Mapping[str, Signature],
    ) -> None:
        self.sealing_keys = sealing_keys
        self.names = names
        self.chosen = chosen
        self._end = end
        self.broken = False
        """Whether it ends because nothing more can be generated."""
        self._link: asyncio.Future[Link]
        self._models: ModelChanges | None = None
        self._server: Server | None = None
        self._answers: dict[str, Answer] = {}
        self._acts: dict[int, _Act] = {}
        """Changes that are not decided yet, by the parent's number."""
        self._given_up: set[_Act] = set()
        """Changes that were decided against, but still run because a disk does not answer."""
        self._tokens = itertools.count()
        self._own: dict[int, _Act | None] = {}
        """Changes that callers of this process wait for."""
        self._stop: Callable[[], object] = lambda: None
        self._reload: Callable[[], object] = lambda: None
        self._stage = self._wanted = 0
        """1: starting and serving, 2: stopping; and to the end of which of them it was told to come."""
        self._watching: Sequence[asyncio.Task[None]] = ()

    # As a `Group`.

    def join(self, models: ModelChanges) -> None:
        """See `Group`."""
        self._models = models
        self._link = asyncio.get_running_loop().create_future()

    def answer_with(self, question: str, answer: Answer) -> None:
        """See `Group`."""
        self._answers[question] = answer

    async def ask_all(self, question: str) -> Sequence[bytes]:
        """See `Group`."""
        said: list[str] = []
        with contextlib.suppress(LinkClosed):
            said = await (await self._parent()).ask("ask all", about=question)
        # If nobody answers in time, or the parent is gone, answer with what this process knows.
        return [base64.b64decode(one) for one in said] or [await self._answers[question]()]

    async def change(self, change: Change, on: str) -> Loaded:
        """See `Group`."""
        assert self._models is not None  # it has joined before calls are taken
        if self._wanted:
            raise Draining
        # The parent makes one change at a time; a second request for the same is refused here without waiting.
        if self._models.changing(on) or any(act.on == on for act in self._acts.values()):
            raise ModelBusy(on)
        token = next(self._tokens)
        self._own[token] = None
        try:
            refused = await (await self._parent()).ask("change", change=change.value, on=on, token=token)
            act = self._own[token]
        except (LinkClosed, Refused) as problem:
            raise Draining from problem
        finally:
            del self._own[token]
        if act is None:
            raise Draining
        if refused is not None and not act.done.done():
            raise ProcessRefused(refused)
        try:
            return await act.result()
        except NotAgreed:
            raise ProcessRefused(str(refused)) from None

    # With its parent.

    def ready(self, server: Server, **more: Any) -> None:
        """Tell the parent that this process takes calls, and what more there is to say of it."""
        self._server = server
        self._watching = [
            asyncio.create_task(self._with_parent(more)),
            asyncio.create_task(self._watch(server)),
        ]

    async def _with_parent(self, said: dict[str, Any]) -> None:
        link = await Link.over(self._end, self._answer)
        self._link.set_result(link)
        link.tell("ready", **said)
        await link.closed.wait()
        self._want(1)

    async def _parent(self) -> Link:
        return await asyncio.shield(self._link)

    def orders(self, stop: Callable[[], object], reload: Callable[[], object] = lambda: None, /) -> None:
        """As `call_when_asked`: what to call when the parent says so or is gone, or at a first SIGTERM of anybody."""
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(self._want, 1))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._stop, self._reload = stop, reload
        self._stage += 1
        if self._wanted >= self._stage:
            stop()

    async def _answer(self, question: str, given: dict[str, Any]) -> Any:
        """Answer the parent."""
        if question == "stop":
            self._want(1)
        elif question == "end now":
            self._want(2)
        elif question == "reload":
            self._reload()
        elif question == "alive":
            pass  # an answer is all that is wanted
        elif question == "models":
            return await self._serves()
        elif question == "tell":
            return base64.b64encode(await self._answers[given["about"]]()).decode()
        elif question == "prepare":
            await self._prepare(given["number"], Change(given["change"]), given["on"], given["token"])
        elif question == "decide":
            await self._decide(given["number"], given["go"])
        else:
            raise Refused(f"{question!r} is no question")
        return None

    async def _serves(self) -> dict[str, Any] | None:
        """Describe the models for another process; None if this one is stopping and takes part in no more changes."""
        assert self._server is not None  # it is asked once it is ready
        if self._wanted:
            return None
        try:
            return await self._server.serves()
        except EngineError as problem:
            raise Refused(str(problem)) from problem

    async def _prepare(self, number: int, change: Change, on: str, token: int | None) -> None:
        assert self._models is not None
        act = self._acts[number] = _Act(on)
        if token in self._own:
            self._own[token] = act
        act.done = asyncio.create_task(self._do(self._models, change, on, act))
        await act.prepared()
        if act.done.done():
            await self._outcome(act)

    async def _do(self, models: ModelChanges, change: Change, on: str, act: _Act) -> Loaded:
        # There is one load at a time: behind one that hangs, every other would time out too.
        late = next((one.on for one in self._given_up if one.on == on or models.loads), None)
        if late is not None and change is not Change.UNLOAD:
            raise ModelUnusable(
                f"a load of {shown(late)} that was given up still goes on in process {os.getpid()}; try again once its "
                f"disk answers, or let another process take its place (kill {os.getpid()})"
            )
        return await models.change(change, on, act.agreed)

    async def _decide(self, number: int, go: bool) -> None:
        act = self._acts.pop(number)
        act.decided.set_result(go)
        if not go:
            self._given_up.add(act)
            act.done.add_done_callback(lambda done: self._given_up.discard(act))
        with contextlib.suppress(*(() if go else (Refused,))):
            await self._outcome(act)

    async def _outcome(self, act: _Act) -> None:
        """Wait for the end of a change; the stop of this process does not prevent the change in others."""
        try:
            await act.result()
        except Draining:
            pass
        except (EngineError, NotAgreed) as problem:
            raise Refused(str(problem)) from problem

    def _want(self, stage: int) -> None:
        if stage > self._wanted:
            self._wanted = stage
            if stage >= self._stage:
                self._stop()

    async def _watch(self, server: Server) -> None:
        await server.failed()
        log.error("nothing more can be generated in this process; it ends, and another takes its place")
        self.broken = True
        self._want(1)
