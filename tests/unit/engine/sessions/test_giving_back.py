"""A session is given back at the end of its call, even where that is cancelled while the store takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from charloom.bundle import Bundle
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.calls.watching import SourceLine, WatchRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.sessions import writer as writer_module
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.store import Lease

KEY = Key("", "a")


class Gated(MemoryStore):
    """One that other servers share, and that writes only while its gate is open."""

    shared = waits = True  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(100)
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def write(self, lease: Lease, session: Session) -> None:
        await self._pass()
        await super().write(lease, session)

    async def release(self, lease: Lease, session: Session) -> None:
        await self._pass()
        await super().release(lease, session)

    async def _pass(self) -> None:
        if not self.gate.is_set():
            self.asked.set()
            await self.gate.wait()


@pytest.fixture
async def store() -> Gated:
    return Gated()


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder, store: Gated) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)], store=store)
    yield engine
    store.gate.set()
    await engine.drain(0)


Ending = Callable[[], Awaitable[object]]


async def feeding(engine: Engine) -> Ending:
    return lambda: engine.reading.feed(ReadingRequest(KEY, text="abcd"), None)


async def observing(engine: Engine) -> Ending:
    observation = await engine.reading.observe(ReadingRequest(KEY))
    await observation.read("abcd")
    return observation.end


async def conversing(engine: Engine) -> Ending:
    conversation = await engine.converse(GenerationRequest(session_id=KEY.id, prompt="abcd"))
    return conversation.end


async def generating(engine: Engine) -> Ending:
    generation = await engine.generating.generate(GenerationRequest(session_id=KEY.id, max_tokens=4))
    return generation.whole


async def rewinding(engine: Engine) -> Ending:
    await engine.reading.feed(ReadingRequest(KEY, text="abcdef"), None)
    return lambda: engine.sessions.rewind(KEY, 4, None, None)


async def moving(engine: Engine) -> Ending:
    await engine.reading.feed(ReadingRequest(KEY, text="abcd"), None)
    return lambda: engine.moving.move(KEY)


async def cancelled_while_it_waits(ending: Awaitable[object], store: Gated) -> None:
    """Begin, and cancel it once the store has been asked; then the store goes on."""
    task = asyncio.ensure_future(ending)
    await store.asked.wait()
    for _ in range(10):  # it may wait for what is written already
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.gate.set()


@pytest.mark.parametrize("begin", [feeding, observing, conversing, generating, rewinding, moving])
async def test_a_call_that_is_cancelled_meanwhile_leaves_the_session_free_and_with_all_that_was_answered(
    engine: Engine, store: Gated, begin: Callable[[Engine], Awaitable[Ending]]
) -> None:
    await engine.sessions.create(session_id=KEY.id)
    end = await begin(engine)
    store.gate.clear()
    await cancelled_while_it_waits(end(), store)
    assert engine.sessions.writing == 1, "it is still being written, and a server that stops waits for it"
    await engine.sessions.all_written(60)
    assert engine.sessions.writing == 0
    assert (await engine.sessions.get(KEY)).snapshot.position == 4
    await (await engine.sessions.acquire(KEY)).give_back()


async def test_that_is_so_while_a_checkpoint_is_written(
    engine: Engine, store: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_SECONDS", 0.0)
    await engine.sessions.create(session_id=KEY.id)
    observation = await engine.reading.observe(ReadingRequest(KEY))
    store.gate.clear()
    await observation.read("abcd")
    await cancelled_while_it_waits(observation.end(), store)
    await engine.sessions.all_written(60)
    assert engine.sessions.writing == 0
    assert (await engine.sessions.get(KEY)).snapshot.position == 4
    await (await engine.sessions.acquire(KEY)).give_back()


async def test_a_call_whose_beginning_fails_gives_the_session_back_all_the_same(engine: Engine, store: Gated) -> None:
    await engine.sessions.create(session_id=KEY.id)
    store.gate.clear()
    await cancelled_while_it_waits(engine.reading.feed(ReadingRequest(KEY, text="abcd"), 17), store)
    await engine.sessions.all_written(60)
    assert engine.sessions.writing == 0
    assert (await engine.sessions.get(KEY)).snapshot.position == 0
    await (await engine.sessions.acquire(KEY)).give_back()


async def test_a_watch_that_is_cancelled_at_its_end_leaves_its_name_free(engine: Engine, store: Gated) -> None:
    watch = await engine.watching.begin(WatchRequest("w"))
    await watch.read([SourceLine("one", "abcd")])
    store.gate.clear()
    await cancelled_while_it_waits(watch.end(), store)
    await engine.sessions.all_written(60)
    assert engine.sessions.writing == 0
    await (await engine.watching.begin(WatchRequest("w"))).end()
