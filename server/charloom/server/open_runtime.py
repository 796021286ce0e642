"""From the settings to the runtime: its models and their folder, its memory, the store with its keys."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from charloom.bundle import Bundle, BundleError
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.engine import Engine
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.rates import Ledger
from charloom.engine.sessions.records import PLAIN, Records
from charloom.engine.sessions.sealing import Sealer
from charloom.engine.sessions.stores.open_store import open_store
from charloom.server.audit import AuditLog, AuditLogUnavailable
from charloom.server.group import Group
from charloom.server.identity.sealing_keys import SealingKeys
from charloom.server.identity.signatures import read_trusted_bundle
from charloom.server.model_changes import ModelChanges, open_model
from charloom.server.model_folder import ModelFolder
from charloom.server.process_memory import memory_in_use, memory_limit
from charloom.server.runtime import Runtime
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)

UNFORESEEN = 0.15
"""Share of the memory besides the decoders that calls may not use: for fragmentation, sessions, gRPC's buffers."""


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
    """Bytes that calls may use: the process's limit without the decoders and the share `UNFORESEEN`.

    Args:
        limit: limit of the process; None: unknown
    """
    return None if limit is None else max(0, int((limit - memory_in_use()) * (1 - UNFORESEEN)))


def require_memory(settings: ServerSettings, left: int | None) -> None:
    """Check that there is memory to serve calls at all.

    Args:
        settings: of the server
        left: bytes that calls may use, from `budget_of`; None: the limit is unknown

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
    """Bytes that this process may use, which is its part of the server's limit; None: the limit is unknown."""
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
    """A warning about weights for names that no model has, such as misspelt ones; empty if there are none."""
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
        engine.put_first(group.names)
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
