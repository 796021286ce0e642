"""Serves the calls of all transports: the engine with its session store, their upkeep, and their shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError
from charloom.engine.loom.model import Model
from charloom.engine.sessions.stores.store import LEASE_SECONDS
from charloom.server.audit import AuditLog
from charloom.server.every import every
from charloom.server.group import Group
from charloom.server.model_changes import ModelChanges
from charloom.server.model_upkeep import ModelUpkeep
from charloom.server.process_memory import give_memory_back

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
"""How often expired sessions are removed, and the engine's workers looked at."""
MEMORY_SECONDS = 5.0
"""How often free memory is given back to the system."""
STORE_SECONDS = 1.0
"""How often the session store is looked at."""


class Runtime:
    """The engine of a server, in the running event loop: `start`, then `drain`, then `close`.

    Args:
        engine: the engine; it is closed with the runtime
        models: changes what the engine serves
        group: the processes of the server
        audit: records what administrators do
        grace_seconds: how long running calls may continue once the server is asked to stop
    """

    def __init__(
        self, engine: Engine, models: ModelChanges, group: Group, audit: AuditLog, grace_seconds: float
    ) -> None:
        self.engine = engine
        self.models = models
        self.model_upkeep = ModelUpkeep(engine, models, audit)
        self.group = group
        self.audit = audit
        self.failed = asyncio.Event()
        """Set once a worker of the engine is gone or stuck: nothing more can be generated."""
        self.stuck: list[Model] = []
        """After `drain`, the models whose decoder is in a call that does not return."""
        self._grace_seconds = grace_seconds
        self._upkeep: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin the upkeep."""
        self._upkeep = [
            asyncio.create_task(every(SWEEP_SECONDS, self._sweep, "expired sessions were not swept")),
            asyncio.create_task(every(LEASE_SECONDS / 4, self.engine.sessions.keep_leases, "leases were not renewed")),
            asyncio.create_task(every(MEMORY_SECONDS, self._give_memory_back, "free memory was not given back")),
            asyncio.create_task(self.model_upkeep.watch()),
        ]

    async def store_states(self) -> AsyncIterator[bool]:
        """Whether the session store can be used: now, and whenever that changes."""
        usable: bool | None = None
        while True:
            before, problem = usable, None
            try:
                await self.engine.sessions.check_store()
            except Exception as found:
                problem = found
            usable = problem is None
            if usable is not before:
                if problem is not None:
                    foreseen = isinstance(problem, EngineError)
                    log.error("calls with sessions fail: %s", problem, exc_info=None if foreseen else problem)
                elif before is not None:
                    log.info("the session store answers again")
                yield usable
            await asyncio.sleep(STORE_SECONDS)

    async def model_states(self) -> AsyncIterator[dict[str, bool]]:
        """Whether each model works, by name: now, and whenever that may have changed."""
        changed = self.models.changed
        while True:
            changed.clear()
            yield {model.name: model.loom.working for model in self.engine.models}
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), SWEEP_SECONDS)

    async def drain(self) -> None:
        """Refuse new work, and let running calls end within the grace time; `stuck` says what could not be ended."""
        self.model_upkeep.stop()
        self.models.stop()
        self.stuck = await self.engine.drain(self._grace_seconds)

    async def close(self, seconds: float) -> None:
        """Wait up to `seconds` until all sessions are written, end the upkeep, and close the store."""
        await self.engine.sessions.all_written(seconds)
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.model_upkeep.stopped(seconds)
        self.engine.rates.close()
        await self.engine.sessions.close()
        self.audit.close()

    async def _sweep(self) -> None:
        if not self.engine.working:
            self.failed.set()
        try:
            await self.engine.sessions.sweep()
        except EngineError as problem:
            log.warning("expired sessions were not swept: %s", problem)

    async def _give_memory_back(self) -> None:
        await asyncio.to_thread(give_memory_back)
