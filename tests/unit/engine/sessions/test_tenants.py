"""All sessions of a tenant, exported and erased while others are served."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from charloom.bundle import Bundle
from charloom.engine.calls.generation import Generation
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import InvalidRequest, SessionDeleted, StoreUnavailable
from charloom.engine.limits import Limits
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.stores.memory import TOMBSTONE_BYTES, MemoryStore
from charloom.engine.sessions.stores.store import Erased
from charloom.engine.sessions.tenants import BATCH, PAGE, Erasure, ExportedSession, require_tenant

MANY = 20_000


class Watched(MemoryStore):
    """Counts what is read of it, and does something before each batch is erased."""

    read = 0
    batches = 0

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        found = await super().page(tenant, after, count)
        self.read += len(found)
        return found

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        await self.before_batch(self.batches)
        self.batches += 1
        return await super().erase(tenant, count)

    async def before_batch(self, number: int) -> None:
        """Nothing, unless a test says otherwise."""


@pytest.fixture
def store() -> Watched:
    return Watched(2 * MANY)


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder, store: Watched) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)], Limits(rewind_tokens=300), store)
    yield engine
    await engine.drain(0)


async def copies(engine: Engine, store: Watched, tenant: str, count: int) -> list[str]:
    """So many sessions of a tenant that have read something; their ids."""
    first = await engine.sessions.create(tenant=tenant, session_id="first", seed=1)
    await engine.reading.feed(ReadingRequest(first.key, text="to be"), None)
    first = await engine.sessions.get(first.key)
    ids = [f"s{number:06}" for number in range(count)]
    for start in range(0, count, 1000):
        await store.add([replace(first, id=id) for id in ids[start : start + 1000]])
    await engine.sessions.delete(first.key)
    return ids


async def exported(engine: Engine, tenant: str) -> list[ExportedSession]:
    found = [one async for one in engine.tenants.export(tenant, None)]
    return [one for one in found if isinstance(one, ExportedSession)]


async def test_an_export_of_20000_sessions_has_a_page_of_them_in_memory(engine: Engine, store: Watched) -> None:
    ids, taken = await copies(engine, store, "shop", MANY), list[str]()
    async for one in engine.tenants.export("shop", timedelta(hours=1)):
        assert isinstance(one, ExportedSession)
        assert one.text == "to be"
        taken.append(one.session.id)
        assert store.read - len(taken) < PAGE
    assert taken == ids
    erasure = Erasure()
    await engine.tenants.erase("shop", erasure)
    assert erasure.sessions == MANY
    assert erasure.ids_sha256 == hashlib.sha256("".join(f"{id}\n" for id in ids).encode()).hexdigest()
    assert (store.memory, len(store)) == ((MANY + 1) * TOMBSTONE_BYTES, 0)  # and the one that was copied


async def test_an_export_has_the_text_that_is_kept_and_a_state_that_goes_on(engine: Engine) -> None:
    session = await engine.sessions.create(tenant="shop", seed=1)
    text = ""
    for _ in range(2):
        request = GenerationRequest(session_id=session.id, tenant="shop", prompt="to be ", max_tokens=1000)
        text += "to be " + (await (await engine.generating.generate(request)).whole()).text
    (one,) = await exported(engine, "shop")
    assert one.session.history.earliest > 0
    assert one.text == text[one.session.history.earliest :]
    assert one.state_expires is not None
    copy, exact = await engine.sessions.import_(one.state, Key("shop", "copy"), None)
    assert (copy.snapshot.position, exact) == (len(text), True)


async def test_a_session_whose_model_is_not_here_is_named_and_the_export_goes_on(
    engine: Engine, store: Watched
) -> None:
    await copies(engine, store, "shop", 3)
    other = replace(
        await engine.sessions.get(Key("shop", "s000001")), id="s0000015", model="other", model_digest="0" * 64
    )
    await store.add([other])
    found = await exported(engine, "shop")
    assert [one.session.id for one in found] == ["s000000", "s000001", "s0000015", "s000002"]
    assert [(one.problem != "", one.text, one.state != b"") for one in found] == [
        (False, "to be", True),
        (False, "to be", True),
        (True, "", False),
        (False, "to be", True),
    ]
    assert "belongs to model 'other'" in found[2].problem


async def test_an_erasure_ends_the_calls_that_are_writing_a_session(engine: Engine) -> None:
    sessions = [await engine.sessions.create(tenant="shop", session_id=id) for id in ("a", "b")]
    others = await engine.sessions.create(tenant="bank", session_id="a")
    running, bystander = [
        await engine.generating.generate(GenerationRequest(session_id="a", tenant=tenant, max_tokens=Limits.max_tokens))
        for tenant in ("shop", "bank")
    ]
    await anext(running)
    conversation = await engine.converse(GenerationRequest(session_id="b", tenant="shop"))
    assert engine.sessions.writing == 3
    erasure = Erasure()
    await engine.tenants.erase("shop", erasure)
    assert erasure.sessions == 2
    with pytest.raises(SessionDeleted, match="'a' was deleted"):
        async for _ in running:
            pass
    for attempt in (conversation.generate(5), conversation.inject("to be"), conversation.end()):
        with pytest.raises(SessionDeleted, match="'b' was deleted"):
            await attempt
    for session in sessions:
        with pytest.raises(SessionDeleted):
            await engine.sessions.get(session.key)
    again = await engine.sessions.create(tenant="shop", session_id="a")
    assert (await engine.sessions.get(again.key)).snapshot.position == 0
    bystander.cancel()
    await engine.sessions.all_written(20)
    assert (await engine.sessions.get(others.key)).id == "a"


async def test_an_erasure_that_breaks_off_tells_how_far_it_came(
    engine: Engine, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await copies(engine, store, "shop", 3 * BATCH)

    async def breaks(number: int) -> None:
        if number == 2:
            store.batches += 1
            raise StoreUnavailable("refused")

    monkeypatch.setattr(store, "before_batch", breaks)
    erasure = Erasure()
    with pytest.raises(StoreUnavailable):
        await engine.tenants.erase("shop", erasure)
    done = "".join(f"{id}\n" for id in ids[: 2 * BATCH])
    assert (erasure.sessions, erasure.ids_sha256) == (2 * BATCH, hashlib.sha256(done.encode()).hexdigest())
    rest = Erasure()
    await engine.tenants.erase("shop", rest)
    assert rest.sessions == BATCH
    assert await exported(engine, "shop") == []


async def test_an_erasure_whose_caller_goes_away_tells_all_that_it_has_erased(
    engine: Engine, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await copies(engine, store, "shop", 3 * BATCH)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def waits(number: int) -> None:
        if number == 1:
            reached.set()
            await go_on.wait()

    monkeypatch.setattr(store, "before_batch", waits)
    erasure = Erasure()
    erasing = asyncio.create_task(engine.tenants.erase("shop", erasure))
    await asyncio.wait_for(reached.wait(), 60)
    erasing.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await erasing
    assert [one.session.id for one in await exported(engine, "shop")] == ids[2 * BATCH :]
    done = "".join(f"{id}\n" for id in ids[: 2 * BATCH])
    assert (erasure.sessions, erasure.ids_sha256) == (2 * BATCH, hashlib.sha256(done.encode()).hexdigest())


async def test_what_is_made_while_an_erasure_goes_on_is_erased_too(
    engine: Engine, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await copies(engine, store, "shop", BATCH)
    kept = await engine.sessions.get(Key("shop", "s000050"))

    async def makes_one_more(number: int) -> None:
        if number == 1:
            await store.add([replace(kept, id="a-copy")])

    monkeypatch.setattr(store, "before_batch", makes_one_more)
    erasure = Erasure()
    await engine.tenants.erase("shop", erasure)
    assert erasure.sessions == BATCH + 1
    assert await exported(engine, "shop") == []


async def test_a_call_of_a_session_that_was_made_anew_under_an_erased_id_goes_on(
    engine: Engine, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, erase = GenerationRequest(session_id="a", tenant="shop", max_tokens=300), store.erase
    await engine.sessions.create(tenant="shop", session_id="a", seed=1)
    old, new = await engine.generating.generate(replace(request, max_tokens=60_000)), list[Generation]()

    async def erases(tenant: str, count: int) -> list[Erased]:
        batch = await erase(tenant, count)
        if batch:
            await engine.sessions.create(tenant="shop", session_id="a", seed=2)
            new.append(await engine.generating.generate(request))
        return batch

    monkeypatch.setattr(store, "erase", erases)
    erasure = Erasure()
    await engine.tenants.erase("shop", erasure)
    assert erasure.sessions == 1
    with pytest.raises(SessionDeleted):
        await old.whole()
    assert len((await new[0].whole()).text) == 300
    assert (await engine.sessions.get(Key("shop", "a"))).snapshot.position == 300


async def test_others_are_served_while_a_large_tenant_is_erased(engine: Engine, store: Watched) -> None:
    await copies(engine, store, "shop", 20 * BATCH)
    erasure, turns = Erasure(), 0
    erasing = asyncio.create_task(engine.tenants.erase("shop", erasure))
    while not erasing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20
    assert erasure.sessions == 20 * BATCH


@pytest.mark.parametrize("name", ["a/b", "x" * 65, "é", " "])
def test_a_malformed_name_of_a_tenant_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        require_tenant(name)
    require_tenant("")
