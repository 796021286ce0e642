"""Waiting for the next request of a bidirectional stream, while the server has nothing to do for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from charloom.engine.errors import ClientIdle, Draining, InvalidRequest

T = TypeVar("T")
R = TypeVar("R")

ON_THE_WAY = 0.5
"""Seconds that a stopping server waits for further texts of a many-texts call, which may be on their way."""
AT_ONCE = 4
"""Messages of one many-texts call that are worked on at a time, so that the loom has work while one is answered."""


class ClientTurn:
    """Waits for a client's next request, but neither beyond the server's stop nor for ever.

    A call without an end of its own, such as a watch, ends when the server stops and all requests so far are answered,
    so that its client can continue with another server at once. A call that reads many texts continues while they
    arrive.

    Args:
        draining: set when the server begins to stop
        seconds: how long a client may take
    """

    def __init__(self, draining: asyncio.Event, seconds: float) -> None:
        self._draining = draining
        self._seconds = seconds

    async def next(self, requests: AsyncIterator[T]) -> T | None:
        """The next request, or None if there are no more.

        Raises:
            Draining: the server stops.
            ClientIdle: it did not come in time.
        """
        coming: asyncio.Future[T | None] = asyncio.ensure_future(anext(requests, None))
        try:
            await self.wait(coming)
            return coming.result()
        finally:
            coming.cancel()

    async def start(self, requests: AsyncIterator[Any]) -> Any:
        """Return the start message in the first request.

        Raises:
            InvalidRequest: it has none, or there is no request.
            and as `next`.
        """
        first = await self.next(requests)
        if first is None or not first.HasField("start"):
            raise InvalidRequest("start", "the first message has to carry it")
        return first.start

    @staticmethod
    def field(request: Any, name: str) -> Any:
        """Return the field of this name in a later request.

        Raises:
            InvalidRequest: the request has another field set.
        """
        if not request.HasField(name):
            raise InvalidRequest(name, "each message but the first has to carry it")
        return getattr(request, name)

    async def answers(
        self, requests: AsyncIterator[T], answer: Callable[[T], Coroutine[Any, Any, R]], most: int
    ) -> AsyncIterator[R]:
        """The answers to all requests, in their order; up to `most` of them are worked on at a time.

        Raises:
            as `next`, while nothing is worked on.
        """
        running: deque[asyncio.Task[R]] = deque()
        coming = asyncio.ensure_future(anext(requests, None))
        more = True
        try:
            while more or running:
                if not running:
                    await self.wait(coming, ON_THE_WAY)
                elif more and len(running) < most:
                    await asyncio.wait([running[0], coming], return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.wait([running[0]])
                if running and running[0].done():
                    yield running.popleft().result()
                elif (request := coming.result()) is None:
                    more = False
                else:
                    running.append(asyncio.ensure_future(answer(request)))
                    coming = asyncio.ensure_future(anext(requests, None))
        finally:
            coming.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def wait(self, coming: asyncio.Future[Any], on_the_way: float = 0.0) -> None:
        """Wait until a request has come, but only `on_the_way` seconds once the server stops.

        Raises:
            as `next`; the future `coming` is not cancelled.
        """
        stop = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait([coming, stop], timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if self._draining.is_set() and on_the_way:
            await asyncio.wait([coming], timeout=on_the_way)
        if coming.done():
            return
        if self._draining.is_set():
            raise Draining
        raise ClientIdle(self._seconds)
