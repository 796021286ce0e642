"""Health, a service of gRPC: whether the server, and each service and model of it, takes calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from charloom.engine.errors import Overloaded

MOST_WATCHERS = 1000
"""Calls of `Watch` at a time: anybody may make them, and no other limit counts them."""
RETRY_SECONDS = 5.0
"""Seconds after which a watcher that was refused may try again."""


class HealthService(health_pb2_grpc.HealthServicer):
    """Reports the states that `tell` sets; a watcher that leaves, or reads slowly, does not affect the others."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False

    def tell(self, service: str, state: int) -> None:
        """Set the state of a service; after `tell_stop` nothing changes any more."""
        if not self._stopping:
            self._states[service] = state
            self._wake()

    def tell_stop(self) -> None:
        """Set all services to NOT_SERVING, for good."""
        self._stopping = True
        self._states = dict.fromkeys(self._states, HealthCheckResponse.NOT_SERVING)
        self._wake()

    def _wake(self) -> None:
        for news in self._watchers:
            news.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> HealthCheckResponse:
        """Return the state of a service; NOT_FOUND for one whose state was never set."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=state)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """Stream the state of a service: the present one, and each change."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise Overloaded(f"{MOST_WATCHERS} calls watch the health of this server already", RETRY_SECONDS)
        service = request.service
        del request
        told: int | None = None
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            while True:
                state = self._states.get(service, HealthCheckResponse.SERVICE_UNKNOWN)
                if state != told:
                    told = state
                    yield HealthCheckResponse(status=state)
                else:
                    await news.wait()
                    news.clear()
        finally:
            self._watchers.discard(news)
