"""Changes of models without a request: follows a folder, reloads at SIGHUP, removes models that have drained."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charloom.bundle import BundleError
from charloom.engine.engine import Engine
from charloom.engine.errors import EngineError, shown
from charloom.engine.model_errors import ModelBusy, ModelTooLarge
from charloom.server.audit import AuditLog, AuditLogUnavailable
from charloom.server.every import every
from charloom.server.identity.signatures import SigningProblem
from charloom.server.model_changes import ModelChanges
from charloom.server.model_folder import Signature

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the folder of models is looked at, and whether a model that drains can go."""
SLOW_LOOK_SECONDS = 30.0
"""After how long the log is told that a look at the folder has not come to an end."""
AUDIT_SECONDS = 10.0
"""Seconds until a load is retried that failed because the audit log or the trusted keys could not be used."""
FOLDER, SIGNAL = "model folder", "SIGHUP"
"""Origins of a load, as the audit log names them."""


class _Load(NamedTuple):
    """A load that is wanted."""

    path: Path
    by: str


class ModelUpkeep:
    """Keeps the models of an engine as the operator's folder and signals want them.

    Each model is loaded by a task of its own, so that one that takes long, or waits for a disk that does not answer,
    does not delay the others.

    Args:
        engine: serves the models
        changes: loads them
        audit: records each load
    """

    def __init__(self, engine: Engine, changes: ModelChanges, audit: AuditLog) -> None:
        self._engine = engine
        self._changes = changes
        self._audit = audit
        self._loading: dict[str, _Load | None] = {}
        """By name, the models that are being loaded, each with the load that is to follow, if any."""
        self._refused: dict[str, tuple[_Load, Callable[[], bool]]] = {}
        """By name, loads that are to be retried, each with a function that returns whether it is time."""
        self._look: asyncio.Task[None] | None = None
        self._look_began = 0.0
        self._slow = False
        """Whether it was logged that the present look at the folder takes long."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def watch(self) -> None:
        """Follow the folder of models, and let go of models that drain, until it is cancelled."""
        await every(LOOK_SECONDS, self._watch_once, "the models were not looked at")

    async def _watch_once(self) -> None:
        for model in await self._engine.let_go_of_models():
            log.info("model %s (%s) is gone", model.name, model.digest[:12])
        if self._stopped:
            return
        self._try_again()
        if self._changes.folder is not None:
            self._look_at_folder()

    async def serves(self) -> dict[str, Any]:
        """Describe the models for another process of the server: bundles with digests, because the files may have
        changed since; the order of all names; and the choices from the folder of models. For models that are being
        loaded from the folder, or are about to be, the other process chooses by itself.

        Raises:
            ModelUnusable: the folder does not answer.
        """
        chosen: dict[str, Signature] = {}
        if self._changes.folder is not None:
            chosen = await self._changes.in_folder(lambda folder: folder.chosen.copy())
        going_on = self._loading.keys() | self._refused.keys()
        chosen = {name: signature for name, signature in chosen.items() if name not in going_on}
        return {
            "bundles": self._changes.paths,
            "digests": self._changes.digests,
            "names": self._engine.order,
            "chosen": chosen,
        }

    def reload_all(self) -> None:
        """Load all models again, and those of the folder of models; one that is being loaded, once more after that."""
        self._start(self._reload_all())

    def stop(self) -> None:
        """Begin no more loads, and cancel running ones."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def stopped(self, seconds: float) -> None:
        """Wait up to `seconds` until the loads that `stop` cancelled have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _reload_all(self) -> None:
        newest: list[Path] = []
        if self._changes.folder is not None:
            try:
                newest = await self._changes.in_folder(lambda folder: folder.first())
            except (BundleError, EngineError) as problem:
                log.error("%s", problem)
        names = {path.parent.name for path in newest}
        for model in self._engine.models:
            if model.name not in names:
                self._begin(model.name, _Load(model.bundle.path, SIGNAL))
        self._begin_all(newest, SIGNAL)

    def _look_at_folder(self) -> None:
        if self._look is None or self._look.done():
            self._look, self._look_began = self._start(self._load_changed()), time.monotonic()
        elif not self._slow and time.monotonic() - self._look_began > SLOW_LOOK_SECONDS:
            self._slow = True
            log.warning("the folder of models does not answer since %g s, and what serves goes on", SLOW_LOOK_SECONDS)

    async def _load_changed(self) -> None:
        self._begin_all(await self._changes.in_folder(lambda folder: folder.changed()), FOLDER)
        if self._slow:
            self._slow = False
            log.info("the folder of models answers again")

    def _try_again(self) -> None:
        for name, (load, ready) in list(self._refused.items()):
            if ready():
                self._begin(name, load)

    def _begin_all(self, paths: Sequence[Path], by: str) -> None:
        """Load versions of the folder; new names come in its order, in all processes, whichever load ends first."""
        self._engine.put_first([*self._engine.order, *(path.parent.name for path in paths)])
        for path in paths:
            self._begin(path.parent.name, _Load(path, by))

    def _begin(self, name: str, load: _Load) -> None:
        self._refused.pop(name, None)
        if self._stopped:
            return
        if name in self._loading:
            log.info("model %s is being loaded; it is once more after that", name)
            self._loading[name] = load
        else:
            self._loading[name] = None
            self._start(self._load(name, load))

    async def _load(self, name: str, load: _Load) -> None:
        on = f"bundle {shown(str(load.path))}"
        try:
            async with self._audit.act_of_server("load-model", on, load.by) as more:
                loaded = await self._changes.load_at(load.path)
                more |= {"model": loaded.model.name, "digest": loaded.model.digest}
            if not loaded.changed:
                log.info("model %s (%s) serves already", name, loaded.model.digest[:12])
        except EngineError as problem:
            log.error("model %s was not loaded: %s", name, problem)
            if (ready := self._ready_again(name, problem)) is not None:
                self._refused[name] = load, ready
        except Exception:
            log.exception("model %s was not loaded", name)
        finally:
            if (then := self._loading.pop(name)) is not None:
                self._begin(name, then)

    def _ready_again(self, name: str, problem: EngineError) -> Callable[[], bool] | None:
        """Return a function that returns whether to retry a load; None: retry when its files change."""
        if isinstance(problem, ModelBusy):
            return lambda: not self._changes.changing(name)
        if isinstance(problem, ModelTooLarge):
            needed = problem.needed
            return lambda: self._engine.budget.has_room(needed)
        if isinstance(problem, AuditLogUnavailable) or isinstance(problem.__cause__, SigningProblem):
            at = time.monotonic() + AUDIT_SECONDS
            return lambda: time.monotonic() >= at
        return None

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("the models were not looked at", exc_info=problem)
