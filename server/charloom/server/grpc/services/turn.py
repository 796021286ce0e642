"""A client's turn in a call that streams both ways: the server has nothing to do until the next request comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from charloom.engine.errors import ClientIdle, Draining, InvalidRequest

T = TypeVar("T")
R = TypeVar("R")

ON_THE_WAY = 0.5
"""Seconds that a server that stops waits for the next texts of a call of many; its client may have sent them."""
AT_ONCE = 4
"""Messages of texts of one call that are read at a time: while one is answered, the loom is not to wait."""


class ClientTurn:
    """Waits for a client, but neither past the stop of the server nor for ever.

    A call that a client may end at any time, or never, as a watch, ends when the server stops and what has come is
    answered; so its client goes on with another server at once. One that reads many texts goes on while they come.

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
        """The start that the first request carries.

        Raises:
            InvalidRequest: it carries none, or there is no request.
            and as `next`.
        """
        first = await self.next(requests)
        if first is None or not first.HasField("start"):
            raise InvalidRequest("start", "the first message has to carry it")
        return first.start

    @staticmethod
    def field(request: Any, name: str) -> Any:
        """What a later request carries.

        Raises:
            InvalidRequest: it carries something else.
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
        """Wait until a request has come, but only this many seconds where the server stops.

        Raises:
            as `next`; what comes is not cancelled then.
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
