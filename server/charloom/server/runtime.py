"""What serves calls, however they arrive: the engine with its session store, their upkeep, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from charloom.bundle import Bundle, BundleError
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError
from charloom.engine.loom.models import Model
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.rates import Ledger
from charloom.engine.sessions.records import PLAIN, Records
from charloom.engine.sessions.sealing import Sealer
from charloom.engine.sessions.stores.open_store import open_store
from charloom.engine.sessions.stores.store import LEASE_SECONDS
from charloom.server.audit import AuditLog, AuditLogUnavailable
from charloom.server.every import every
from charloom.server.group import Group
from charloom.server.identity.sealing_keys import SealingKeys
from charloom.server.identity.signatures import read_trusted_bundle
from charloom.server.model_changes import ModelChanges, open_model
from charloom.server.model_folder import ModelFolder
from charloom.server.model_upkeep import ModelUpkeep
from charloom.server.process_memory import give_memory_back, memory_in_use, memory_limit
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
"""How often expired sessions are removed, and the engine's workers looked at."""
MEMORY_SECONDS = 5.0
"""How often free memory is given back to the system."""
UNFORESEEN = 0.15
"""Of the memory besides the decoders, what is not promised to calls: fragments, sessions, gRPC's buffers."""
STORE_SECONDS = 1.0
"""How often the session store is looked at."""


class Runtime:
    """The engine of a server, in the running event loop: `start`, then `drain`, then `close`.

    Args:
        engine: the engine; it is closed with the runtime
        models: changes what the engine serves
        group: the processes of the server
        audit: has what administrators do
        grace_seconds: how long running calls may go on once the server is asked to stop
    """

    def __init__(
        self, engine: Engine, models: ModelChanges, group: Group, audit: AuditLog, grace_seconds: float
    ) -> None:
        self.engine = engine
        self.models = models
        self.model_upkeep = ModelUpkeep(engine, models, audit)
        self.group = group
        self.audit = audit
        self.failed = asyncio.Event()
        """Set once a worker of the engine is gone or stuck: nothing more can be generated."""
        self.stuck: list[Model] = []
        """After `drain`, the models whose decoder is in a call that does not return."""
        self._grace_seconds = grace_seconds
        self._upkeep: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin the upkeep."""
        self._upkeep = [
            asyncio.create_task(every(SWEEP_SECONDS, self._sweep, "expired sessions were not swept")),
            asyncio.create_task(every(LEASE_SECONDS / 4, self.engine.sessions.keep_leases, "leases were not renewed")),
            asyncio.create_task(every(MEMORY_SECONDS, self._give_memory_back, "free memory was not given back")),
            asyncio.create_task(self.model_upkeep.watch()),
        ]

    async def store_states(self) -> AsyncIterator[bool]:
        """Whether the session store can be used: now, and whenever that changes."""
        usable: bool | None = None
        while True:
            before, problem = usable, None
            try:
                await self.engine.sessions.check_store()
            except Exception as found:
                problem = found
            usable = problem is None
            if usable is not before:
                if problem is not None:
                    foreseen = isinstance(problem, EngineError)
                    log.error("calls with sessions fail: %s", problem, exc_info=None if foreseen else problem)
                elif before is not None:
                    log.info("the session store answers again")
                yield usable
            await asyncio.sleep(STORE_SECONDS)

    async def model_states(self) -> AsyncIterator[dict[str, bool]]:
        """Whether each model works, by name: now, and whenever that may have changed."""
        changed = self.models.changed
        while True:
            changed.clear()
            yield {model.name: model.loom.working for model in self.engine.models}
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), SWEEP_SECONDS)

    async def drain(self) -> None:
        """Refuse new work, and let running calls end within the grace time; `stuck` says what could not be ended."""
        self.model_upkeep.stop()
        self.models.stop()
        self.stuck = await self.engine.drain(self._grace_seconds)

    async def close(self, seconds: float) -> None:
        """Wait up to `seconds` until all sessions are written, end the upkeep, and close the store."""
        await self.engine.sessions.all_written(seconds)
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        await self.model_upkeep.stopped(seconds)
        self.engine.rates.close()
        await self.engine.sessions.close()
        self.audit.close()

    async def _sweep(self) -> None:
        if not self.engine.working:
            self.failed.set()
        try:
            await self.engine.sessions.sweep()
        except EngineError as problem:
            log.warning("expired sessions were not swept: %s", problem)

    async def _give_memory_back(self) -> None:
        await asyncio.to_thread(give_memory_back)


def open_models(
    paths: Sequence[Path], settings: ServerSettings, digests: Mapping[str, str] | None = None
) -> list[tuple[Bundle, Decoder]]:
    """Open bundles and their decoders.

    Args:
        paths: of the bundles
        settings: how they are checked and opened
        digests: by path, what the other processes of the server serve from there

    Raises:
        BundleError: one of them cannot be used, is not signed as the settings want it, or is not what others serve.
        SigningProblem: the file of trusted keys cannot be used.
    """
    bundles = [read_trusted_bundle(path, settings.trusted_keys) for path in paths]
    for path, bundle in zip(paths, bundles, strict=True):
        name, digest = bundle.manifest.name, bundle.manifest.digest
        served = (digests or {}).get(str(path), digest)
        if served != digest:
            raise BundleError(
                path,
                f"it was replaced ({digest[:12]}), and the other processes serve what was there before ({served[:12]})",
                f"let them load it too: charloom models reload {name}; or put back what was there",
            )
    return [(bundle, open_model(bundle, settings)) for bundle in bundles]


def model_folder(settings: ServerSettings) -> ModelFolder | None:
    """The folder of models of the settings."""
    if settings.model_folder is None:
        return None
    return ModelFolder(settings.model_folder, lambda path: read_trusted_bundle(path, settings.trusted_keys))


def budget_of(limit: int | None) -> int | None:
    """Bytes that calls may use of a process's limit: what is left besides the decoders, and a part for the unforeseen.

    Args:
        limit: of the process; None: nobody knows one
    """
    return None if limit is None else max(0, int((limit - memory_in_use()) * (1 - UNFORESEEN)))


def require_memory(settings: ServerSettings, left: int | None) -> None:
    """See that calls can be served at all.

    Args:
        settings: of the server
        left: bytes that calls may use, as `budget_of` has them; None: nobody knows a limit

    Raises:
        ValueError: there is no memory for any call.
    """
    limit = memory_of_process(settings)
    if limit is None or left is None or left > 0:
        return
    who, advice = "the server", "raise --memory-bytes or the limit of the control group"
    if settings.processes > 1:
        who, advice = "each process of the server", f"lower --processes, or {advice}"
    raise ValueError(
        f"the decoders alone take the {limit / 2**20:,.0f} MiB that {who} may use, so that every call would be "
        f"refused; {advice}"
    )


def memory_of_process(settings: ServerSettings) -> int | None:
    """Bytes that this process may use: its part of what the server may; None: nobody knows a limit."""
    limit = settings.memory_bytes or memory_limit()
    return None if limit is None else limit // settings.processes


def sealing_keys(settings: ServerSettings) -> SealingKeys | None:
    """The keys that the settings name.

    Raises:
        ValueError: their file cannot be used.
    """
    return None if settings.sealing_keys is None else SealingKeys(settings.sealing_keys)


def records_of(settings: ServerSettings, keys: SealingKeys | None) -> Records:
    """How sessions are written where they outlive the server."""
    return PLAIN if keys is None else Records(keys, writes_plain=not settings.encrypt_records)


def weights_without_model(settings: ServerSettings, bundles: Sequence[Bundle]) -> str:
    """What to tell of weights whose names no model has, as misspelt ones; empty where there are none."""
    unused = settings.limits().model_weights.keys() - {bundle.manifest.name for bundle in bundles}
    names = ", ".join(map(repr, sorted(unused)))
    return f"no model is named {names}; a weight counts once there is one of its name" if names else ""


def memory_for_sessions(budget: int | None) -> int | None:
    """Bytes that sessions in memory may take of what calls may use; None: any number."""
    return None if budget is None else budget // 2


async def open_runtime(models: Sequence[tuple[Bundle, Decoder]], settings: ServerSettings, group: Group) -> Runtime:
    """An engine with the session store and the sealing keys of the settings.

    Args:
        models: bundles with their decoders, the default one first
        settings: the settings
        group: the processes of the server

    Raises:
        ValueError: there is no model, or two have the same name; the file with the keys cannot be used, or the audit
            log; or the store's name is none; or no memory is left for calls.
        OSError: the store cannot be used.
    """
    memory = budget_of(memory_of_process(settings))
    require_memory(settings, memory)
    if said := weights_without_model(settings, [bundle for bundle, _ in models]):
        log.warning("--model-weights: %s", said)
    try:
        audit = AuditLog(settings.audit_log)
    except AuditLogUnavailable as problem:
        raise ValueError(str(problem)) from problem
    keys = sealing_keys(settings)
    records = records_of(settings, keys)
    store = await open_store(settings.store, settings.max_sessions, records, memory_for_sessions(memory))
    try:
        budget = MemoryBudget(memory, lambda: store.memory + engine.more_model_memory + started)
        sealer = Sealer(group.sealing_keys if keys is None else keys)
        ledger = store if isinstance(store, Ledger) else None
        before = memory_in_use()
        engine = Engine(models, settings.limits(), store, sealer, budget, ledger)
        engine.order(group.names)
        started = max(0, memory_in_use() - before)  # the first steps of the decoders, which are not for calls
        try:
            require_memory(settings, None if memory is None else memory - started)
        except ValueError:
            await engine.drain(0)
            raise
        changes = ModelChanges(engine, settings, model_folder(settings), group.chosen)
        group.join(changes)
    except BaseException:
        await store.close()
        raise
    return Runtime(engine, changes, group, audit, settings.grace_seconds)
