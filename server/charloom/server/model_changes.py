"""Models are loaded, replaced and unloaded while the server runs.

A load is, in this order: read and verified, opened, tried and so warmed, beside what serves; then new calls go to it,
and the model that had its name drains. What fails on the way changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from charloom.bundle import Bundle, BundleError
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.engine.decoding.open_decoder import kind_to_open, open_decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import Draining, EngineError, ErrorKind, InvalidRequest, shown
from charloom.engine.loom.models import Model, try_model
from charloom.engine.model_errors import ModelBusy, ModelUnusable
from charloom.server.identity.signatures import SigningProblem, read_trusted_bundle
from charloom.server.model_folder import ModelFolder
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_SECONDS = 1.0
"""How often the folder of models is looked at, and whether a model that drains can go."""
REST = 3.0
"""How long the work of loading rests after each part of it while others generate, in times of what the part took: so
that it takes a quarter of one core."""
LONGEST_REST = 1.0


class ModelPathForbidden(EngineError):
    """A path of a request is none of those that the operator named."""

    kind = ErrorKind.FORBIDDEN
    reason = "MODEL_PATH_FORBIDDEN"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{shown(path)} is not below a folder that the operator of this server named: its --model-folder, or the "
            "bundles that it was started with"
        )


class Stage(Enum):
    """How far a load is."""

    WAITING = "waiting"
    """For another to end."""
    OPENING = "opening"
    TRYING = "trying"


@dataclass
class Load:
    """A load that goes on."""

    name: str
    version: str
    """Name of its folder."""
    digest: str
    stage: Stage = Stage.WAITING


class Loaded(NamedTuple):
    """What a load has brought."""

    model: Model
    changed: bool
    """Whether another model, or none, served under its name before."""


class ModelChanges:
    """Changes what an engine serves; in the event loop of the engine, one load at a time.

    Args:
        engine: serves the models
        settings: how bundles are checked and opened, and from where
        folder: of models, if the settings name one
    """

    def __init__(self, engine: Engine, settings: ServerSettings, folder: ModelFolder | None) -> None:
        self._engine = engine
        self._settings = settings
        self._folder = folder
        self._roots = [model.bundle.path.resolve() for model in engine.models]
        if folder is not None:
            folder.remember([model.bundle.path for model in engine.models])
            self._roots.append(folder.path.resolve())
        self._loads: dict[str, Load | None] = {}
        """By the name of the model that is being changed."""
        self._one_load = asyncio.Lock()
        self._folder_lock = asyncio.Lock()
        self._stopped = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloading = self._reload_again = False
        self.changed = asyncio.Event()
        """Set whenever other models serve than before; whoever waits for it clears it."""
        self.stuck = False
        """Whether a file of a bundle did not come to an end, so that a thread goes on."""

    @property
    def loads(self) -> list[Load]:
        """Those that go on."""
        return [load for load in self._loads.values() if load is not None]

    # Asked for. A change goes on when whoever asked for it goes away.

    async def load(self, path: str) -> Loaded:
        """Load a bundle, and let new calls of its name go to it.

        Args:
            path: of the bundle, absolute, or relative to the folder of models

        Raises:
            ModelPathForbidden: it is not below a folder that the operator named.
            ModelBusy: a model of this name is being changed already.
            ModelUnusable: the bundle cannot be used.
            ModelTooLarge: there is no memory for it.
        """
        return await self._to_its_end(self._load(await _in_thread(lambda: self._allowed(path))))

    async def reload(self, name: str) -> Loaded:
        """Load a model again from where it came: its own folder, or its newest version in the folder of models.

        Raises:
            ModelNotFound: there is none of this name.
            and as `load`.
        """
        return await self._to_its_end(self._reload(self._engine.model(name)))

    async def unload(self, name: str) -> Model:
        """Let a model serve no new calls; sessions go on with it until its grace is over.

        Raises:
            ModelNotFound: there is none of this name.
            ModelBusy: it is being loaded.
            LastModel: there is no other.
        """
        with self._reserved(name):
            model = self._engine.unload(name, self._settings.model_grace_seconds)
        log.info("model %s (%s) is unloaded: %s", name, model.digest[:12], self._grace())
        self.changed.set()
        return model

    def reload_all(self) -> None:
        """Reload all models, and take new ones from the folder of models; asked again meanwhile, once more then."""
        if self._reloading:
            log.info("models are being reloaded; they are once more after that")
            self._reload_again = True
            return
        self._reloading = True
        self._start(self._reload_each())

    # On its own.

    async def watch(self) -> None:
        """Follow the folder of models, and let go of models that drain, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await self._let_go():
                    # Ended calls hold their model in circles of objects, which may stay for long. It takes 45 ms of
                    # the event loop, and 80 ms with 20,000 sessions in memory: Python's lock is held wherever it runs.
                    gc.collect()
                if self._folder is not None:
                    await self._load_each(self._folder.changed)
            except Exception:
                log.exception("the models were not looked at; they are again in %g s", LOOK_SECONDS)

    async def _let_go(self) -> bool:
        """Whether any model has gone."""
        gone = await self._engine.let_go_of_models()
        for model in gone:
            log.info("model %s (%s) is gone", model.name, model.digest[:12])
        return bool(gone)

    def stop(self) -> None:
        """Begin no more, and end what goes on soon."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()

    def _allowed(self, path: str) -> Path:
        if not path or "\0" in path:
            raise InvalidRequest("path", f"{shown(path)} is not a path")
        base = self._settings.model_folder
        if base is None and not Path(path).is_absolute():
            raise InvalidRequest("path", f"{shown(path)} is relative, and this server has no --model-folder")
        resolved = (Path(path) if base is None else base / path).resolve()
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise ModelPathForbidden(path)
        return resolved

    async def _reload(self, model: Model) -> Loaded:
        path = model.bundle.path
        if self._folder is not None and path.resolve().is_relative_to(self._folder.path.resolve()):
            async with self._folder_lock:
                found = await _in_thread(lambda: self._newest(model.name))
            path = found or path
        return await self._load(path)

    def _newest(self, name: str) -> Path | None:
        assert self._folder is not None
        return self._folder.newest(name)

    async def _reload_each(self) -> None:
        try:
            while True:
                self._reload_again = False
                for model in self._engine.models:
                    await self._told(model.name, self._reload(model))
                if self._folder is not None:
                    await self._load_each(self._folder.first)
                if not self._reload_again:
                    return
        finally:
            self._reloading = False

    async def _load_each(self, found: Callable[[], list[Path]]) -> None:
        async with self._folder_lock:
            try:
                paths = await _in_thread(found)
            except BundleError as problem:
                log.error("%s", problem)
                return
        for path in paths:
            await self._told(path.parent.name, self._load(path))

    async def _told(self, name: str, load: Coroutine[Any, Any, Loaded]) -> None:
        try:
            loaded = await load
        except ModelBusy:
            log.info("model %s is being changed; it is looked at again", name)
            if self._folder is not None:
                self._folder.look_again(name)
        except EngineError as problem:
            log.error("model %s was not loaded: %s", name, problem)
        else:
            if not loaded.changed:
                log.info("model %s (%s) serves already", name, loaded.model.digest[:12])

    async def _load(self, path: Path) -> Loaded:
        try:
            return await self._load_checked(await self._work(lambda: self._read(path)))
        except BundleStuck as problem:
            self.stuck = True
            raise ModelUnusable(problem) from problem
        except (BundleError, SigningProblem, OSError) as problem:
            raise ModelUnusable(problem) from problem

    async def _load_checked(self, bundle: Bundle) -> Loaded:
        settings, engine, manifest = self._settings, self._engine, bundle.manifest
        load = Load(manifest.name, bundle.path.name, manifest.digest)
        with self._reserved(manifest.name, load):
            async with self._one_load:
                serving = next((one for one in engine.models if one.name == manifest.name), None)
                if serving is not None and serving.digest == manifest.digest:
                    return Loaded(serving, False)
                model = engine.serve_again(manifest.digest, settings.model_grace_seconds)
                if model is None:
                    engine.require_room(bundle, kind_to_open(bundle, settings.decoder, settings.device))
                    load.stage = Stage.OPENING
                    decoder = await self._work(
                        lambda: open_decoder(bundle, kind=settings.decoder, device=settings.device)
                    )
                    load.stage = Stage.TRYING
                    tried = await self._work(lambda: try_model(bundle, decoder, engine.limits.max_rows, self._rest))
                    try:
                        model = engine.serve(tried, settings.model_grace_seconds)
                    except RuntimeError as problem:  # no more threads can be started
                        raise ModelUnusable(problem) from problem
        before = "" if serving is None else f"; {serving.digest[:12]} drains: {self._grace()}"
        log.info("model %s is %s (%s)%s", model.name, load.version, model.digest[:12], before)
        self.changed.set()
        return Loaded(model, True)

    def _read(self, path: Path) -> Bundle:
        return read_trusted_bundle(path, self._settings.trusted_keys)

    def _rest(self, seconds: float) -> None:
        if any(model.loom.live for model in self._engine.models):
            self._stopped.wait(min(LONGEST_REST, REST * seconds))
        if self._stopped.is_set():
            raise Draining

    @contextlib.contextmanager
    def _reserved(self, name: str, load: Load | None = None) -> Iterator[None]:
        if name in self._loads:
            raise ModelBusy(name)
        self._loads[name] = load
        try:
            yield
        finally:
            del self._loads[name]

    async def _work(self, work: Callable[[], T]) -> T:
        result = await _in_thread(work)
        if self._stopped.is_set():
            raise Draining
        return result

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """What a change brings; it goes on when whoever asked for it goes away.

        Raises:
            Draining: the end of the server has broken it off.
        """
        task = self._start(change)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Draining from None
            raise

    def _start(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("a model was not loaded: %s", problem)

    def _grace(self) -> str:
        return f"sessions go on with it for {self._settings.model_grace_seconds:g} s"


async def _in_thread(work: Callable[[], T]) -> T:
    """Done in a thread that keeps no process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], what: object) -> None:
        def told() -> None:
            if not done.done():
                set_it(what)

        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(told)

    def run() -> None:
        try:
            tell(done.set_result, work())
        except Exception as problem:
            tell(done.set_exception, problem)

    threading.Thread(target=run, name="charloom-models", daemon=True).start()
    return await done
