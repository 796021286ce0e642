"""What the tests of shared streams look at: the streams that a server has got, and that of a client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.unit.client.fake_answers import stream
from tests.unit.client.fake_server import FakeServer


@pytest.fixture
def always() -> bool:
    """For `shared_stream`."""
    return True


class Streams:
    """The streams that a server has got, and which of them are over."""

    def __init__(self, server: FakeServer) -> None:
        self._answer = server.answers["GenerateMany"]
        self._over: list[threading.Event] = []
        server.answers["GenerateMany"] = self._noting

    def _noting(self, requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._over.append(threading.Event())
        context.add_callback(self._over[-1].set)
        return iter(self._answer(requests, context))

    @property
    def begun(self) -> int:
        return len(self._over)

    async def is_over(self, number: int) -> bool:
        return await asyncio.to_thread(self._over[number].wait, 30)

    def runs(self, number: int) -> bool:
        return not self._over[number].is_set()


@pytest.fixture
def noted(server: FakeServer) -> Streams:
    """For `streams`."""
    return Streams(server)


def holding(server: FakeServer, prompt: str = "") -> Callable[..., Iterator[Any]]:
    """An answer of Generate that waits after its first piece, of this prompt or of any, until the server's `ended`."""

    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        first, *others = stream(request, context)
        yield first
        if request.options.prompt.startswith(prompt) and not request.resume_position:
            server.ended.wait(120)
        yield from others

    return answer


def present(client: Any) -> Any:
    """The present stream of a client of either kind."""
    return getattr(client, "_blocking", client)._connection._shared._present
