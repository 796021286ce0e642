from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from charloom.bundle import Bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import StoreUnavailable
from charloom.engine.sessions.stores.memory import MemoryStore
from charloom.engine.sessions.stores.store import Lease, Store
from charloom.server import open_runtime as opening
from charloom.server import runtime
from charloom.server.audit import AuditLog
from charloom.server.group import Alone
from charloom.server.model_changes import ModelChanges
from charloom.server.open_runtime import UNFORESEEN, open_runtime
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings
from tests.waiting import eventually_async


class SlowToRecover(MemoryStore):
    """A store that fails its first two sweeps and renewals of leases, and tells when it is closed."""

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__(10)
        self.problem = problem or StoreUnavailable("refused")
        self.sweeps = self.renewals = 0
        self.closed = False

    async def sweep(self) -> int:
        self.sweeps += 1
        if self.sweeps <= 2:
            raise self.problem
        return await super().sweep()

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        self.renewals += 1
        if self.renewals <= 2:
            raise self.problem
        return await super().renew(leases)

    async def close(self) -> None:
        self.closed = True
        await super().close()


@pytest.fixture(autouse=True)
def _keep_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for often in ("SWEEP_SECONDS", "LEASE_SECONDS", "MEMORY_SECONDS", "STORE_SECONDS"):
        monkeypatch.setattr(runtime, often, 0.004)


def runtime_of(engine: Engine) -> Runtime:
    return Runtime(engine, ModelChanges(engine, ServerSettings(), None), Alone(), AuditLog(), grace_seconds=0)


@pytest.mark.parametrize("problem", [StoreUnavailable("refused"), RuntimeError("can't start new thread")])
async def test_the_upkeep_survives_a_store_that_does_not_answer(
    bundle: Bundle, decoder: Decoder, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    store = SlowToRecover(problem)
    engine = Engine([(bundle, decoder)], store=store)
    running = runtime_of(engine)
    writer = await engine.sessions.acquire((await engine.sessions.create()).key)
    with caplog.at_level(logging.WARNING):
        running.start()
        await eventually_async(lambda: store.sweeps >= 4 and store.renewals >= 4)
    for lost in ("were not swept", "leases were not renewed"):
        assert len([record for record in caplog.records if lost in record.message]) == 2
    assert not running.failed.is_set()
    await writer.give_back()
    await running.drain()
    await asyncio.wait_for(running.failed.wait(), 60)
    await running.close(1)
    assert store.closed


async def test_free_memory_is_given_back_where_that_failed_before(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    def fails_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("out of luck")

    monkeypatch.setattr(runtime, "give_memory_back", fails_once)
    running = runtime_of(Engine([(bundle, decoder)]))
    running.start()
    await eventually_async(lambda: len(tries) >= 3)
    await running.drain()
    await running.close(1)


@pytest.mark.parametrize("problem", [StoreUnavailable("refused"), RuntimeError("can't start new thread")])
async def test_a_store_that_cannot_be_asked_is_told_and_asked_again(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    engine = Engine([(bundle, decoder)])
    running, check = runtime_of(engine), engine.sessions.check_store

    async def fails() -> None:
        raise problem

    monkeypatch.setattr(engine.sessions, "check_store", fails)
    states = running.store_states()
    assert not await anext(states)
    monkeypatch.setattr(engine.sessions, "check_store", check)
    assert await anext(states)
    await running.drain()
    await running.close(1)


async def test_an_engine_without_workers_is_a_failed_runtime(bundle: Bundle, decoder: Decoder) -> None:
    running = runtime_of(Engine([(bundle, decoder)]))
    running.start()
    await running.drain()  # its workers end
    await asyncio.wait_for(running.failed.wait(), 60)
    await running.close(1)


async def test_a_runtime_that_cannot_be_made_leaves_no_open_store(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowToRecover()

    async def opened(name: str, max_sessions: int, records: object, most_memory: int | None) -> Store:
        return cast(Store, store)

    monkeypatch.setattr(opening, "open_store", opened)
    with pytest.raises(ValueError, match="two bundles are named"):
        await open_runtime([(bundle, decoder), (bundle, decoder)], ServerSettings(), Alone())
    assert store.closed


@pytest.mark.parametrize("in_use", [[500], [100, 440]])  # by the decoders, and after their first steps
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_server_without_memory_for_any_call_does_not_start(
    bundle: Bundle, decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_use: list[int], processes: int
) -> None:
    in_use, engines = in_use.copy(), list[Engine]()
    monkeypatch.setattr(opening, "memory_limit", lambda: 500 * processes * 2**20)
    monkeypatch.setattr(opening, "memory_in_use", lambda: in_use[0] * 2**20)
    made = Engine

    def engine_that_takes_memory(*given: Any) -> Engine:
        in_use.pop(0)
        engines.append(made(*given))
        return engines[0]

    monkeypatch.setattr(opening, "Engine", engine_that_takes_memory)
    settings = ServerSettings(processes=processes, store=f"sqlite:{tmp_path}/sessions.db")
    with pytest.raises(
        ValueError, match=r"the decoders alone take the 500 MiB that .*every call would be refused; "
    ) as said:
        await open_runtime([(bundle, decoder)], settings, Alone())
    assert ("lower --processes" in str(said.value)) is (processes > 1)
    assert [engine.working for engine in engines] == [False] * len(engines)


async def test_weights_of_names_that_no_model_has_are_told(
    bundle: Bundle, decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    for weights in ("small=2", "small=2,smal=3,other=0.5"):
        opened = await open_runtime([(bundle, decoder)], ServerSettings(model_weights=weights), Alone())
        await opened.drain()
        await opened.close(0)
    assert [record.getMessage() for record in caplog.records if "weight" in record.getMessage()] == [
        "--model-weights: no model is named 'other', 'smal'; a weight counts once there is one of its name"
    ]


async def test_what_the_first_steps_have_taken_is_not_for_calls(
    bundle: Bundle, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mebi, used = 2**20, [100, 130]
    monkeypatch.setattr(opening, "memory_in_use", lambda: used[0] * mebi)
    made = Engine

    def engine_that_takes_memory(*given: Any) -> Engine:
        used.pop(0)
        return made(*given)

    monkeypatch.setattr(opening, "Engine", engine_that_takes_memory)
    opened = await open_runtime([(bundle, decoder)], ServerSettings(memory_bytes=500 * mebi), Alone())
    try:
        budget = opened.engine.budget
        assert budget.most == int(400 * mebi * (1 - UNFORESEEN))
        assert budget.has_room(budget.most - 30 * mebi)
        assert not budget.has_room(budget.most - 30 * mebi + 1)
    finally:
        await opened.drain()
        await opened.close(0)
