"""The parent of a server's processes: starts them, replaces those that end, and lets them act as one.

It has no engine, and takes no calls: it imports neither a decoder runtime nor gRPC. A child's question to all, such as
a change of models, it passes on to each child.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from charloom.server.merged import together
from charloom.server.process_parts import METRICS
from charloom.server.processes.child import Child, ChildFailed, Overtaken
from charloom.server.processes.link import LinkClosed, Refused
from charloom.server.processes.metrics import SummedMetrics, Told
from charloom.server.processes.ports import held
from charloom.server.settings import ServerSettings
from charloom.server.signals import call_when_asked, ignore_all
from charloom.server.telemetry.metrics_listener import MetricsListener

log = logging.getLogger(__name__)

KEY_BYTES = 32
LOAD_SECONDS = 600.0
"""Seconds that a child may take to read, open and try a model before the change is given up in all children."""
TELL_SECONDS = 5.0
"""Seconds that a child may take to answer a question; a slower one is left out."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a child that ended soon after its start, or could not start, is replaced: doubled each time."""
SETTLED_SECONDS = 60.0
"""A child that has served so long is replaced at once."""
ENDING_SECONDS = 15.0
"""How much longer than the grace a child may take to end, before it is killed."""


class Parent:
    """The processes of a server, in the running event loop.

    Args:
        settings: of the server
        bundles: bundles to serve, besides those of the folder of models; if there are none, the bundled model
        command: command that starts a child; the file descriptor of its end of the link is appended
    """

    def __init__(self, settings: ServerSettings, bundles: Sequence[Path], command: Sequence[str]) -> None:
        self._settings = settings
        self._bundles = [str(path.absolute()) for path in bundles]
        self._command = command
        self._keys = [base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()]
        self._ports: list[socket.socket] = []
        self._children: dict[int, Child] = {}
        """By their number from 1; those that are starting too."""
        self._serving: dict[str, Any] | None = None
        """What the children served when one was asked last, as `ModelUpkeep.serves` has it; None: what they find."""
        self._numbers = itertools.count()
        self._changes: set[asyncio.Task[str | None]] = set()
        self._changing = asyncio.Lock()
        """Held while models change, one change at a time, and until all children have taken calls once."""
        self._settled = asyncio.Event()
        """Cleared while children carry out a decision, because it is not known then which models they serve."""
        self._settled.set()
        self._stopping = asyncio.Event()
        self._listener: MetricsListener | None = None
        self._replaced = self._hung = 0
        """Children that ended and were replaced; and those that were killed because they did not answer."""

    @property
    def ready(self) -> list[Child]:
        """Children that take calls."""
        return [child for child in self._children.values() if child.serves]

    async def serve(self, announce: Callable[[Child], None]) -> None:
        """Serve until SIGTERM or SIGINT. Both are ignored once it has ended, as the process is to end too.

        Args:
            announce: called with one of the children once all take calls

        Raises:
            PortInUse: an address is taken.
            ChildFailed: a child cannot start, or has lost texts at its end.
        """
        call_when_asked(self._stopping.set)
        keeping: list[asyncio.Task[None]] = []
        try:
            self._hold_ports()
            numbers = range(1, self._settings.processes + 1)
            starting = [self._start(number) for number in numbers]
            async with self._changing:
                if not await self._unless_stopped(starting):
                    return
            await self._tell_metrics()
            announce(self._children[1])
            call_when_asked(self._stopping.set, self._reload)
            keeping = [asyncio.create_task(self._keep(number)) for number in numbers]
            await self._stopping.wait()
            log.info("stopping %d processes; a second signal ends running calls now", len(self._children))
        finally:
            self._stopping.set()
            call_when_asked(self._end_now)
            for task in keeping:
                task.cancel()
            await asyncio.gather(*(child.end(self._grace) for child in self._children.values()))
            if self._listener is not None:
                await self._listener.close(0)
            for port in self._ports:
                port.close()
            ignore_all()
        # A child that took no calls yet has nothing to lose, and may have ended by the signal that we sent it.
        if lost := [child for child in self._children.values() if child.told and child.status]:
            raise ChildFailed(f"{len(lost)} of its processes did not end in order; the log says why")
        log.info("all processes have stopped")

    # Starting, and starting again.

    def _hold_ports(self) -> None:
        settings = self._settings
        ports = {"port": settings.port, "http_port": settings.http_port}
        hosts = {"port": settings.host, "http_port": settings.http_host}
        for name, port in ports.items():
            if port is not None:
                self._ports.append(held(hosts[name], port, f"--{name.replace('_', '-')}"))
                ports[name] = self._ports[-1].getsockname()[1]
        self._settings = settings.model_copy(update=ports)

    async def _tell_metrics(self) -> None:
        if self._settings.metrics_port is None:
            return
        loop = asyncio.get_running_loop()
        registry = CollectorRegistry()
        registry.register(SummedMetrics(lambda: asyncio.run_coroutine_threadsafe(self._metrics(), loop).result()))
        self._listener = MetricsListener(registry, self._settings.metrics_host, self._settings.metrics_port)
        await self._listener.start()

    async def _unless_stopped(self, starting: Sequence[Coroutine[Any, Any, None]]) -> bool:
        """Wait until all children take calls; returns False if the server is asked to stop before that."""
        stopped = asyncio.create_task(self._stopping.wait())
        started = asyncio.create_task(together(starting))
        try:
            await asyncio.wait([stopped, started], return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                return False
            await started
            return True
        finally:
            stopped.cancel()
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)

    async def _start(self, number: int) -> None:
        child = self._children[number] = await Child.spawned(number, self._command, self._answer)
        try:
            # Not earlier: a change or reload after this question must find the child in `_children`.
            serving = await self._models()
            child.link.tell(
                "start",
                number=number,
                settings=self._settings.model_dump(mode="json"),
                bundles=self._bundles,
                serving=serving,
                sealing_keys=self._keys,
            )
            await child.started()
        except Overtaken:
            await child.end(self._grace)
            raise
        except Exception:
            await child.gone()
            raise
        log.info("process %d (%d) takes calls", number, child.pid)

    async def _keep(self, number: int) -> None:
        pause = 0.0
        while True:
            child = self._children[number]
            began = time.monotonic()
            if await child.over():
                log.error("process %d (%d) does not answer, and is killed", number, child.pid)
                self._hung += 1
                child.kill()
            await child.ended()
            if self._stopping.is_set():
                return
            del self._children[number]
            await child.gone()
            log.error("process %d (%d) has ended with %s; another takes its place", number, child.pid, child.ending)
            self._replaced += 1
            while True:
                settled = time.monotonic() - began > SETTLED_SECONDS
                pause = 0.0 if settled else min(LONGEST_PAUSE, max(SHORTEST_PAUSE, 2 * pause))
                await asyncio.sleep(pause)
                try:
                    await self._start(number)
                except Exception as problem:  # whatever it was, the server still needs this process
                    began = time.monotonic()
                    self._children.pop(number, None)
                    # The system may have no process, or no file, to give.
                    foreseen = isinstance(problem, ChildFailed | OSError)
                    log.error("process %d cannot start: %s", number, problem, exc_info=None if foreseen else problem)
                else:
                    break

    async def _models(self) -> dict[str, Any] | None:
        """The models that a starting child is to serve: those of the other children; if there are none, those that they
        served last, with the files as they are now.

        Raises:
            ChildFailed: other children serve, but none answers.
        """
        await self._settled.wait()
        unknown: Refused | None = None
        for child in self.ready:
            try:
                serving = await child.link.ask("models")
            except LinkClosed:
                continue
            except Refused as problem:
                unknown = problem
                continue
            if serving is not None:  # a child that is not stopping, and so takes part in changes
                self._serving = serving
                return self._serving
        if unknown is not None:
            raise ChildFailed(f"the others do not say what they serve: {unknown}")
        return self._serving and {**self._serving, "digests": {}}

    # Messages to all children.

    @property
    def _grace(self) -> float:
        return self._settings.grace_seconds + ENDING_SECONDS

    def _reload(self) -> None:
        for child in self._children.values():
            child.reload()

    def _end_now(self) -> None:
        for child in self._children.values():
            child.link.tell("end now")

    # Questions of one child.

    async def _answer(self, child: Child, question: str, given: dict[str, Any]) -> Any:
        if question == "ask all":
            return list((await self._ask_all(given["about"])).values())
        if question == "change":
            # A task of its own: the others must learn the decision, even if the asking child ends meanwhile.
            change = asyncio.create_task(self._change(child, given["change"], given["on"], given["token"]))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)
            return await asyncio.shield(change)
        raise Refused(f"{question!r} is no question")

    async def _ask_all(self, question: str) -> dict[int, str]:
        """Ask each child that takes calls; returns base64 answers by process id, without those that failed."""

        async def asked(child: Child) -> tuple[int, str] | None:
            try:
                said = await asyncio.wait_for(child.link.ask("tell", about=question), TELL_SECONDS)
            except (LinkClosed, Refused, asyncio.TimeoutError) as problem:
                log.warning("process %d does not say its %s: %s", child.number, question, problem or "no answer")
                return None
            return child.pid, said

        return dict(filter(None, await asyncio.gather(*map(asked, self.ready))))

    async def _metrics(self) -> Told:
        texts = {pid: base64.b64decode(said).decode() for pid, said in (await self._ask_all(METRICS)).items()}
        return Told(texts, {child.pid for child in self.ready} | texts.keys(), self._replaced, self._hung)

    async def _change(self, asking: Child, change: str, on: str, token: int) -> str | None:
        """Let all children change their models, or none; returns why none does."""
        async with self._changing:
            number = next(self._numbers)
            refused: dict[Child, str | None] = {}

            async def prepare(child: Child) -> None:
                own = token if child is asking else None
                given = {"number": number, "change": change, "on": on, "token": own}
                refused[child] = await _refusal(child, "prepare", LOAD_SECONDS, **given)

            # Children start meanwhile; those that have come to take calls take part.
            while (new := [child for child in self.ready if child not in refused]) and not any(refused.values()):
                await asyncio.gather(*map(prepare, new))
            if not refused:  # the asking child has ended, and starting ones cannot take part
                return "no process of this server takes calls now; try again"
            go = not any(refused.values())
            if go:
                for child in self._children.values():  # one that starts may serve what was served before
                    child.give_up(Overtaken("models have changed meanwhile"))

            async def decide(child: Child) -> None:
                # If the change is given up, a child whose disk does not answer is not waited for.
                problem = await _refusal(child, "decide", None if go else TELL_SECONDS, number=number, go=go)
                if go and problem:  # the others have changed: it is replaced by one that serves what they do
                    log.error("process %d could not follow the others: %s", child.number, problem)
                    child.kill()

            self._settled.clear()
            try:
                await asyncio.gather(*map(decide, refused))
            finally:
                self._settled.set()
            if go:
                with contextlib.suppress(ChildFailed, asyncio.TimeoutError):
                    await asyncio.wait_for(self._models(), TELL_SECONDS)
            return next(filter(None, refused.values()), None)


async def _refusal(child: Child, question: str, seconds: float | None, **given: Any) -> str | None:
    """Ask a child; returns why it refuses or does not answer within `seconds`, None if it does it or is gone."""
    try:
        await asyncio.wait_for(child.link.ask(question, **given), seconds)
    except Refused as problem:
        return str(problem)
    except asyncio.TimeoutError:
        return f"process {child.number} was not done within {seconds:g} s; does the disk of the model answer?"
    except LinkClosed:
        return None
    return None
