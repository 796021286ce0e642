"""A child process as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from charloom.server.processes.link import Link, LinkClosed
from charloom.server.variables import PREFIX


class ChildFailed(ValueError):
    """A child cannot start, or did not end in order."""


class Overtaken(ChildFailed):
    """Models have changed while a child started, which may already take calls with the old ones."""


BEAT_SECONDS = 5.0
"""How often a child is asked whether it is alive, and how long it has to answer."""
MISSED_BEATS = 3
"""Unanswered beats in a row after which a child hangs; more than one, because the machine may have been suspended."""
START_SECONDS = 300.0
"""How long a child may take until it takes calls: it reads all models, and tries them."""

Answer = Callable[["Child", str, dict[str, Any]], Awaitable[Any]]
"""Answers a child's question."""


class Child:
    """A process that was spawned; made by `spawned`."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, answer: Answer) -> None:
        self.number = number
        self.link: Link
        self.told: dict[str, Any] = {}
        """What it reported when it was ready; empty until then."""
        self._process = process
        self._answer_it = answer
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def spawned(cls, number: int, command: Sequence[str], answer: Answer) -> Child:
        """A new process with a link to it. It has its own session, so that a terminal signals the parent alone.

        Raises:
            OSError: the system has no process to give now.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # The child gets the server's settings from its parent, not from the environment.
            environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        child = cls(number, process, answer)
        child.link = await Link.over(ours, child._answer)
        return child

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, below 0 the signal that ended it; None while it runs."""
        return self._process.returncode

    @property
    def ending(self) -> str:
        """How it ended, in words: its exit status, with the name of the signal where one ended it."""
        status = self.status
        if status is None or status >= 0:
            return str(status)
        named = {one.value: one.name for one in signal.Signals}
        return f"{status} ({named.get(-status, 'a signal')})"

    @property
    def serves(self) -> bool:
        """Whether it takes calls."""
        ready = self._ready.done() and self._ready.exception() is None
        return ready and self.status is None and not self.link.closed.is_set()

    async def started(self) -> None:
        """Wait until it takes calls.

        Raises:
            ChildFailed: it cannot, or hangs.
        """
        ended = asyncio.create_task(self.ended())
        try:
            await asyncio.wait({ended, self._ready}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.done() and not ended.done():
                raise ChildFailed(f"a process did not take calls within {START_SECONDS:g} s")
            if not self._ready.done():
                raise ChildFailed(f"a process ended with {self.ending} before it took calls")
            self._ready.result()
        finally:
            ended.cancel()

    def give_up(self, problem: ChildFailed) -> None:
        """Fail its start, if it does not take calls yet."""
        if not self._ready.done():
            self._ready.set_exception(problem)

    def reload(self) -> None:
        """Let it load its models again, now or as soon as it takes calls."""
        self._ready.add_done_callback(lambda ready: self.link.tell("reload"))

    async def ended(self) -> None:
        """Wait until the process is gone."""
        await self._process.wait()

    async def over(self) -> bool:
        """Wait until the process is gone, or hangs; whether it hangs."""
        ended, silent = asyncio.create_task(self.ended()), asyncio.create_task(self._silent())
        try:
            await asyncio.wait({ended, silent}, return_when=asyncio.FIRST_COMPLETED)
            return not ended.done()
        finally:
            ended.cancel()
            silent.cancel()

    async def _silent(self) -> None:
        """Wait until it answers no more."""
        missed = 0
        while missed < MISSED_BEATS:
            try:
                await asyncio.wait_for(self.link.ask("alive"), BEAT_SECONDS)
                missed = 0
            except (asyncio.TimeoutError, LinkClosed):
                missed += 1
            await asyncio.sleep(BEAT_SECONDS)

    async def end(self, seconds: float) -> None:
        """Let it stop, and kill it if that takes longer than `seconds`."""
        if self.serves:
            self.link.tell("stop")
        else:  # it does not read messages yet
            self._signal(self._process.terminate)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended(), seconds)
        await self.gone()

    async def gone(self) -> None:
        """Kill the process if it still runs, and release the link to it."""
        self.kill()
        await self.ended()
        self.link.close()

    def kill(self) -> None:
        """End it at once."""
        self._signal(self._process.kill)

    def _signal(self, send: Callable[[], None]) -> None:
        with contextlib.suppress(ProcessLookupError):
            send()

    async def _answer(self, question: str, given: dict[str, Any]) -> Any:
        if question == "failed":
            self.give_up(ChildFailed(given["problem"]))
            return None
        if question == "ready":
            if not self._ready.done():
                self.told = given
                self._ready.set_result(None)
            return None
        return await self._answer_it(self, question, given)
