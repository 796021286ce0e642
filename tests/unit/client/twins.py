"""What a test needs to be of both halves of the SDK."""

from __future__ import annotations

import inspect
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any

import pytest

from charloom import client as sdk
from charloom.client import Client, Continuations, Conversation, Labeller, Observer, Session, TextStream, Watch
from charloom.client._access import Access
from charloom.client._connection import BaseConnection, CallContext

KINDS = (Client, Session, TextStream, Continuations, Conversation, Observer, Labeller, Watch)


@pytest.fixture(params=[False, True], ids=["own_streams", "shared_stream"])
def with_and_without(request: pytest.FixtureRequest) -> bool:
    """For `shared_stream`: once so that each call has a stream of its own, and once so that all share one."""
    return bool(request.param)


def somewhere(target: str = "somewhere") -> CallContext:
    """Of a call that a test makes up, on a connection that nothing is sent on."""
    return BaseConnection(target, None, Access(None, ()), ()).new_call()


def interrupt_soon() -> None:
    """Press Ctrl-C, once the test waits for an answer."""

    def doing() -> list[str]:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        return [one.f_code.co_name for one, _ in itertools.islice(traceback.walk_stack(frame), 3)]

    while (now := doing())[0] not in ("wait", "_wait") or "start" in now:  # for a thread to start, it waits too
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


class AsAsyncio:
    """A blocking object with the surface of its asyncio twin: what has to be awaited is done at once."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking
        self._twin = getattr(sdk, f"Async{type(blocking).__name__}")

    def __getattr__(self, name: str) -> Any:
        blocking, twin = getattr(self._blocking, name), getattr(self._twin, name)
        if not callable(twin):
            return blocking

        async def answer(*args: Any, **kwargs: Any) -> Any:
            return as_asyncio(blocking(*args, **kwargs))

        if inspect.iscoroutinefunction(twin):
            return answer
        return lambda *args, **kwargs: as_asyncio(blocking(*args, **kwargs))

    def __await__(self) -> Generator[Any, None, AsAsyncio]:
        return self
        yield

    def __aiter__(self) -> AsAsyncio:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._blocking)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> AsAsyncio:
        self._blocking.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._blocking.__exit__(*error)


def as_asyncio(value: Any) -> Any:
    """What a blocking call returned, as its asyncio twin would return it."""
    if isinstance(value, list):
        return [as_asyncio(one) for one in value]
    if inspect.isgenerator(value):
        return _as_asynchronous(value)
    return AsAsyncio(value) if isinstance(value, KINDS) else value


async def _as_asynchronous(values: Iterable[Any]) -> AsyncIterator[Any]:
    for one in values:
        yield one
