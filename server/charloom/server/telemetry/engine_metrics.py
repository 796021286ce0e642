"""All metrics of this process: those of its engine, of Python, and of the process itself."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError
from charloom.server.every import every
from charloom.server.telemetry.metrics import EngineCollector

COUNT_SECONDS = 15.0
"""How often sessions are counted."""


class EngineMetrics:
    """Metrics in `registry`, from `start` to `close`.

    Args:
        engine: whose
        per_tenant: whether to tell them of each tenant too
    """

    def __init__(self, engine: Engine, *, per_tenant: bool) -> None:
        self.registry = CollectorRegistry()
        self._engine = engine
        self._collector = EngineCollector(engine, per_tenant=per_tenant)
        self.registry.register(self._collector)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count sessions."""
        self._counting = asyncio.create_task(
            every(COUNT_SECONDS, self._count_sessions, "sessions were not counted", at_once=True)
        )

    async def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return await asyncio.to_thread(generate_latest, self.registry)

    def close(self) -> None:
        """Count no more."""
        if self._counting is not None:
            self._counting.cancel()

    async def _count_sessions(self) -> None:
        """Ask the store now and then, so that scrapes neither wait for it nor burden it."""
        count: int | None = None
        try:
            count = await self._engine.sessions.count()
        except EngineError:  # a metric of its own reports that the store does not answer
            pass
        finally:
            self._collector.sessions = count
