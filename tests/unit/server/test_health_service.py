"""Health, for watchers that come, leave, or are one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from charloom.engine.errors import Overloaded
from charloom.server.grpc.services import health
from charloom.server.grpc.services.health import HealthService

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def watched(service: HealthService, name: str = "") -> AsyncIterator[HealthCheckResponse]:
    return service.Watch(HealthCheckRequest(service=name), None)


async def waiting(watch: AsyncIterator[HealthCheckResponse]) -> asyncio.Task[HealthCheckResponse]:
    """A watcher's wait for what it is told next, once it waits."""

    async def told() -> HealthCheckResponse:
        return await anext(watch)

    task = asyncio.create_task(told())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_a_watcher_that_leaves_makes_no_other_deaf() -> None:
    service = HealthService()
    service.tell("", SERVING)
    balancer, stranger = watched(service), watched(service)
    assert [(await anext(one)).status for one in (balancer, stranger)] == [SERVING, SERVING]
    left, news = await waiting(stranger), await waiting(balancer)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    service.tell_stop()
    assert (await news).status == NOT_SERVING


async def test_what_was_told_while_a_watcher_was_slow_reaches_it_and_nothing_changes_after_the_stop() -> None:
    service = HealthService()
    watch = watched(service, "later")
    assert (await anext(watch)).status == HealthCheckResponse.SERVICE_UNKNOWN
    service.tell("later", SERVING)
    service.tell("later", NOT_SERVING)
    assert (await anext(watch)).status == NOT_SERVING
    service.tell_stop()
    service.tell("later", SERVING)
    await waiting(watch)
    assert (await service.Check(HealthCheckRequest(service="later"), None)).status == NOT_SERVING


async def test_one_watcher_too_many_is_refused_until_another_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_WATCHERS", 1)
    service = HealthService()
    service.tell("", SERVING)
    first = service.Watch(HealthCheckRequest(), None)
    await anext(first)
    with pytest.raises(Overloaded, match="1 calls watch"):
        await anext(watched(service))
    await first.aclose()  # type: ignore[attr-defined]
    assert (await anext(watched(service))).status == SERVING
