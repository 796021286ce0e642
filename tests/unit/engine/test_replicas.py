"""Two engines that share a store: what one does, the other goes on with; and what happens where one dies or lags.

A replica "dies" here by never touching its store again, while its loom goes on: the worst kind, one that does not know.
Real processes are killed in tests/integration/test_deployment.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from charloom.bundle import Bundle
from charloom.engine import errors
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.engine import Engine
from charloom.engine.limits import Limits
from charloom.engine.sessions.record import from_session
from charloom.engine.sessions.session import Session
from charloom.engine.sessions.stores.sqlite import SqliteStore
from charloom.engine.sessions.stores.store import Lease
from tests.unit.engine.stores import LEASE, Clock

LENGTH = 4000
SHAPINGS = {
    "plain": GenerationRequest(),
    "penalties": GenerationRequest(sampling=Sampling(frequency_penalty=0.05, repetition_penalty=1.1)),
    "stop": GenerationRequest(stop=("zqzq",), prompt="abc"),
}


class Mortal(SqliteStore):
    """A store that can be cut off from its replica."""

    dead = False
    writes = 0

    async def write(self, lease: Lease, session: Session) -> None:
        if self.dead:
            raise errors.StoreUnavailable("cut off")
        await super().write(lease, session)
        self.writes += 1

    async def release(self, lease: Lease, session: Session) -> None:
        if self.dead:
            raise errors.StoreUnavailable("cut off")
        await super().release(lease, session)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        if self.dead:
            raise errors.StoreUnavailable("cut off")
        return await super().renew(leases)


@pytest.fixture
def stores(tmp_path: Path) -> list[Mortal]:
    """Of the engines, in their order; the engines close them."""
    return [Mortal(tmp_path / "sessions.db", 100, lease_seconds=600) for _ in range(2)]


@pytest.fixture
async def engines(bundle: Bundle, decoder: Decoder, stores: list[Mortal]) -> AsyncIterator[list[Engine]]:
    engines = [Engine([(bundle, decoder)], Limits(rewind_tokens=300), store) for store in stores]
    yield engines
    for engine in engines:
        await engine.drain(0)
        await engine.sessions.all_written(1)
        await engine.sessions.close()


async def whole(engine: Engine, request: GenerationRequest) -> str:
    return (await (await engine.generating.generate(request)).whole()).text


async def test_what_one_replica_does_the_other_goes_on_with(engines: list[Engine]) -> None:
    one, two = engines
    session = await one.sessions.create(seed=1)
    alone = await one.sessions.create(seed=1)
    text = ""
    for turn in range(4):
        text += await whole(engines[turn % 2], GenerationRequest(session_id=session.id, max_tokens=50))
    assert text == await whole(one, GenerationRequest(session_id=alone.id, max_tokens=200))
    await two.sessions.rewind(session.key, 120, None, None)
    assert await whole(one, GenerationRequest(session_id=session.id, max_tokens=80)) == text[120:]
    assert {s.id for s in await two.sessions.page("", "", 10)} == {session.id, alone.id}
    await two.sessions.delete(session.key)
    with pytest.raises(errors.SessionDeleted):
        await one.sessions.get(session.key)


async def test_a_session_has_one_writer_among_all_replicas(engines: list[Engine]) -> None:
    one, two = engines
    session = await one.sessions.create()
    generation = await one.generating.generate(GenerationRequest(session_id=session.id, max_tokens=60_000))
    await anext(generation)
    for call in (
        two.generating.generate(GenerationRequest(session_id=session.id)),
        two.reading.feed(ReadingRequest(session.key, text="a"), None),
        two.sessions.rewind(session.key, 0, None, None),
        two.sessions.delete(session.key),
    ):
        with pytest.raises(errors.SessionBusy):
            await call
    assert (await two.sessions.get(session.key)).id == session.id
    generation.cancel()
    assert await whole(two, GenerationRequest(session_id=session.id, max_tokens=5))


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("written", [False, True])
async def test_a_dead_replicas_stream_goes_on_elsewhere_and_its_writes_are_refused(
    engines: list[Engine], stores: list[Mortal], shaping: str, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it had written the session on the way or not."""
    monkeypatch.setattr("charloom.engine.sessions.writer.CHECKPOINT_SECONDS", 0.0 if written else 1000.0)
    one, two = engines
    request = replace(SHAPINGS[shaping], max_tokens=LENGTH)
    alone = await two.sessions.create(seed=2)
    expected = await whole(two, replace(request, session_id=alone.id))
    session = await one.sessions.create(seed=2)
    asked = replace(request, session_id=session.id, call_id="call")
    generation = await one.generating.generate(asked)
    store = stores[0]
    text, position = "", 0
    async for delta in generation:
        text, position = text + delta.text, delta.position
        await asyncio.sleep(0)
        if len(text) > LENGTH // 3 and (store.writes or not written):
            break
    store.dead = True
    if not written:
        assert store.writes == 0
    with pytest.raises(errors.SessionBusy):
        await two.generating.generate(replace(asked, call_id="another"))
    resumed = await two.generating.generate(replace(asked, resume_position=position))
    text += (await resumed.whole()).text
    assert text == expected
    now = await two.sessions.get(session.key)
    store.dead = False
    with pytest.raises(errors.SessionTakenOver):
        [delta async for delta in generation]
    assert from_session(await two.sessions.get(session.key)) == from_session(now)
    assert now.version == 1


async def test_a_replica_that_was_cut_off_learns_that_it_is_not_the_writer_any_more(engines: list[Engine]) -> None:
    one, two = engines
    session = await one.sessions.create()
    asked = GenerationRequest(session_id=session.id, max_tokens=60_000, call_id="call")
    generation = await one.generating.generate(asked)
    first = await anext(generation)
    other = await two.generating.generate(replace(asked, resume_position=first.position))
    await one.sessions.keep_leases()
    with pytest.raises(errors.SessionTakenOver):
        [delta async for delta in generation]
    await two.sessions.keep_leases()
    assert (await anext(other)).text
    other.cancel()


async def test_a_conversation_whose_session_was_taken_over_says_so(engines: list[Engine]) -> None:
    one, two = engines
    session = await one.sessions.create(seed=6)
    conversation = await one.converse(GenerationRequest(session_id=session.id, call_id="call"))
    await conversation.generate(0)
    await conversation.next()
    await whole(two, GenerationRequest(session_id=session.id, call_id="call", max_tokens=5))
    await one.sessions.keep_leases()

    async def read() -> None:
        while True:
            await conversation.next()

    with pytest.raises(errors.SessionTakenOver):
        await read()
    with pytest.raises(errors.SessionTakenOver):
        await conversation.end()
    assert (await two.sessions.get(session.key)).snapshot.position == 5


async def test_an_observation_whose_session_was_taken_over_says_so(
    bundle: Bundle, decoder: Decoder, tmp_path: Path
) -> None:
    clock = Clock()
    stores = [SqliteStore(tmp_path / "sessions.db", 100, lease_seconds=LEASE, steady=clock.steady) for _ in range(2)]
    one, two = (Engine([(bundle, decoder)], None, store) for store in stores)
    session = await one.sessions.create(seed=7)
    observation = await one.reading.observe(ReadingRequest(session.key))
    await observation.read("abc")
    clock.uptime += LEASE + 1  # nobody renews
    await two.reading.feed(ReadingRequest(session.key, text="xy"), 0)
    await one.sessions.keep_leases()
    with pytest.raises(errors.SessionTakenOver):
        await observation.read("def")
    with pytest.raises(errors.SessionTakenOver):
        await observation.end()
    assert (await two.sessions.get(session.key)).snapshot.position == 2
    for engine in (one, two):
        await engine.drain(0)
        await engine.sessions.close()


async def test_leases_that_are_renewed_last_and_others_end(bundle: Bundle, decoder: Decoder, tmp_path: Path) -> None:
    clock = Clock()
    stores = [SqliteStore(tmp_path / "sessions.db", 100, lease_seconds=LEASE, steady=clock.steady) for _ in range(2)]
    one, two = (Engine([(bundle, decoder)], None, store) for store in stores)
    session = await one.sessions.create(seed=3)
    generation = await one.generating.generate(GenerationRequest(session_id=session.id, max_tokens=60_000))
    await anext(generation)
    for _ in range(5):
        clock.uptime += LEASE / 2
        await one.sessions.keep_leases()
    with pytest.raises(errors.SessionBusy):
        await two.generating.generate(GenerationRequest(session_id=session.id))
    clock.uptime += LEASE + 1  # nobody renews
    following = await two.generating.generate(GenerationRequest(session_id=session.id, max_tokens=5))
    await following.whole()
    generation.cancel()
    await one.sessions.all_written(1)
    assert (await two.sessions.get(session.key)).snapshot.position == 5
    for engine in (one, two):
        await engine.drain(0)
        await engine.sessions.close()


async def test_a_call_that_was_over_when_its_replica_died_is_answered_again(engines: list[Engine]) -> None:
    one, two = engines
    session = await one.sessions.create(seed=4)
    asked = GenerationRequest(session_id=session.id, max_tokens=300, call_id="call", stop=("zqzq",))
    text = await whole(one, asked)
    for arrived in (None, 1, 299, 300):
        again = await two.generating.generate(replace(asked, resume_position=arrived))
        assert (await again.whole()).text == text[arrived or 0 :]
        assert again.result is not None
        assert again.result.session is not None
        assert (again.result.session.version, again.result.finish.generated) == (1, 300)


async def test_a_session_whose_store_fails_on_the_way_ends_as_unavailable_and_can_be_resumed(
    engines: list[Engine], stores: list[Mortal]
) -> None:
    one, two = engines
    session, alone = await one.sessions.create(seed=5), await one.sessions.create(seed=5)
    asked = GenerationRequest(session_id=session.id, max_tokens=500, call_id="call")
    generation = await one.generating.generate(asked)
    store = stores[0]
    store.dead = True
    text = ""

    async def read() -> None:
        nonlocal text
        async for delta in generation:
            text += delta.text

    with pytest.raises(errors.StoreUnavailable):
        await read()
    store.dead = False
    assert one.sessions.writing == 0
    rest = await whole(two, replace(asked, resume_position=len(text) or None))
    assert text + rest == await whole(one, GenerationRequest(session_id=alone.id, max_tokens=500))
