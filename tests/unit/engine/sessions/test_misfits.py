"""States of sizes that are not the model's are refused before they come to a decoder, with what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from charloom.bundle import Bundle
from charloom.controls.adaptation import state_size
from charloom.engine.calls.requests import GenerationRequest, ReadingRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.engine import Engine
from charloom.engine.errors import SealedStateCorrupt, StoreUnavailable
from charloom.engine.sessions.sealing import SealedState, Sealer, new_keys
from charloom.engine.sessions.session import Key
from charloom.engine.sessions.stores.memory import MemoryStore

Change = Callable[[Snapshot], Snapshot]
CHANGES: dict[str, Change] = {
    "the sizes 1 x": lambda one: replace(one, state=one.state[:1]),
    "the sizes 2 x": lambda one: replace(one, state=one.state[:, :, :-1]),
    "what it has learnt are 5 numbers": lambda one: replace(one, learnt=np.zeros(5, np.float32)),
    "its pending tokens": lambda one: replace(one, pending=(10**6,)),
    "are not of the model's": lambda one: replace(one, pending=()),
}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(10)


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(new_keys())


@pytest.fixture
async def engine(bundle: Bundle, decoder: Decoder, store: MemoryStore, sealer: Sealer) -> AsyncIterator[Engine]:
    engine = Engine([(bundle, decoder)], store=store, sealer=sealer)
    yield engine
    await engine.drain(0)


@pytest.mark.parametrize(("says", "change"), CHANGES.items())
async def test_a_sealed_state(engine: Engine, sealer: Sealer, says: str, change: Change) -> None:
    model = engine.models[0]
    wrong = change(model.fresh(1, adaptive=True))
    token, _ = sealer.seal(SealedState(wrong, model.name, model.digest, "k"), "", timedelta(hours=1))
    with pytest.raises(SealedStateCorrupt, match=says):
        await engine.sessions.import_(token, Key("", "new"), None)
    with pytest.raises(SealedStateCorrupt, match=says):
        await engine.generating.generate(GenerationRequest(state=token))
    good, _ = sealer.seal(
        SealedState(model.fresh(1, adaptive=True), model.name, model.digest, "k"), "", timedelta(hours=1)
    )
    assert (await engine.sessions.import_(good, Key("", "new"), None))[0].adaptive


@pytest.mark.parametrize(("says", "change"), CHANGES.items())
async def test_a_session_that_a_store_has(engine: Engine, store: MemoryStore, says: str, change: Change) -> None:
    model = engine.models[0]
    made = await engine.sessions.create(session_id="good", adaptive=True)
    wrong = change(made.snapshot)
    await store.add(
        [
            replace(made, id="present", snapshot=wrong),
            replace(made, id="past", history=replace(made.history, checkpoints=(wrong,))),
        ]
    )
    for id in ("present", "past"):
        with pytest.raises(StoreUnavailable, match=f"session '{id}' cannot be used: .*{says}"):
            await engine.reading.feed(ReadingRequest(key=Key("", id), text="a"), None)
        assert engine.sessions.writing == 0
    after = await engine.reading.feed(ReadingRequest(key=made.key, text="a"), None)
    assert after.snapshot.learnt is not None
    assert after.snapshot.learnt.size == state_size(model.decoder.shape.vocabulary)
