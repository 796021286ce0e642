"""Models are loaded, replaced and unloaded while the server runs.

A bundle is read and verified, opened, and tried (which also warms it up) while the other models serve; then new calls
go to it, and the model that had its name drains. If a step fails, nothing changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from charloom.bundle import Bundle, BundleError
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.first_steps import BundleStuck
from charloom.engine.decoding.open_decoder import kind_to_open, open_decoder
from charloom.engine.engine import Engine
from charloom.engine.errors import Draining, EngineError, ErrorKind, InvalidRequest, ModelNotFound, shown
from charloom.engine.loom.model import Model, try_model
from charloom.engine.model_errors import LastModel, ModelBusy, ModelUnusable
from charloom.server.identity.signatures import SigningProblem, read_trusted_bundle
from charloom.server.model_folder import ModelFolder, Signature
from charloom.server.settings import ServerSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
FOLDER_SECONDS = 30.0
"""Seconds that a look at the folder of models waits for another look to end."""
REST = 3.0
"""While calls generate, loading pauses after each part of its work for this many times the part's duration, so that it
takes a quarter of one core."""
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
    """For another load to end."""
    OPENING = "opening"
    TRYING = "trying"


@dataclass
class Load:
    """A load that is running or waiting."""

    name: str
    version: str
    """Name of its folder."""
    digest: str
    stage: Stage = Stage.WAITING


class Loaded(NamedTuple):
    """The result of a change."""

    model: Model
    changed: bool
    """Whether another model serves under its name than before, or none does now."""


class Change(Enum):
    """The kinds of change that can be requested."""

    LOAD = "load"
    RELOAD = "reload"
    UNLOAD = "unload"


Agreed = Callable[[], Awaitable[None]]
"""Awaited after every step that can fail and before anything changes; an error that it raises cancels the change."""


async def at_once() -> None:
    """The `Agreed` of a change that needs no other process's consent."""


def open_model(bundle: Bundle, settings: ServerSettings) -> Decoder:
    """Open the decoder of a bundle; logs a warning for a chat template that the model cannot read.

    Raises:
        BundleError: as `open_decoder`.
    """
    chat = bundle.manifest.chat
    if chat is not None and (problem := chat.problem(bundle.vocabulary)):
        log.warning(
            "model %s cannot read its chat template, and refuses chats: %s; give it another one "
            "(charloom export --from OLD NEW --chat-template FILE)",
            bundle.manifest.name,
            problem,
        )
    return open_decoder(bundle, kind=settings.decoder, device=settings.device)


class ModelChanges:
    """Changes what an engine serves; in the event loop of the engine, one load at a time.

    Args:
        engine: serves the models
        settings: how bundles are checked and opened, and from where
        folder: of models, if the settings name one
        chosen: what the other processes of the server have chosen from it

    Loads that `ModelUpkeep` starts go through it like requests.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        folder: ModelFolder | None,
        chosen: Mapping[str, Signature] | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self.folder = folder
        """Where versions of models appear, if the settings name a folder."""
        self._roots = [model.bundle.path.resolve() for model in engine.models]
        if folder is not None:
            folder.remember([model.bundle.path for model in engine.models], chosen or {})
            self._roots.append(folder.path.resolve())
        self._loads: dict[str, Load | None] = {}
        """By name, the models that are being changed; None while there is no load."""
        self._one_load = asyncio.Lock()
        self._folder_lock = asyncio.Lock()
        self._stopped = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Event()
        """Set whenever the serving models change; the waiting task clears it."""
        self.stuck = False
        """Whether reading a bundle's file never returned, so that its thread still runs."""

    @property
    def loads(self) -> list[Load]:
        """The loads that are running or waiting."""
        return [load for load in self._loads.values() if load is not None]

    @property
    def paths(self) -> list[str]:
        """Where the models that serve came from, the default one first."""
        return [str(model.bundle.path.absolute()) for model in self._engine.models]

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the models that serve, by the path they came from."""
        return {str(model.bundle.path.absolute()): model.digest for model in self._engine.models}

    # Changes on request. A change continues if its caller goes away.

    async def change(self, change: Change, on: str, agreed: Agreed = at_once) -> Loaded:
        """Load, reload or unload; `on` is the path or the name that these take."""
        does = {Change.LOAD: self.load, Change.RELOAD: self.reload, Change.UNLOAD: self.unload}
        return await does[change](on, agreed)

    async def load(self, path: str, agreed: Agreed = at_once) -> Loaded:
        """Load a bundle, and let new calls of its name go to it.

        Args:
            path: of the bundle, absolute, or relative to the folder of models
            agreed: awaited before new calls go to it

        Raises:
            ModelPathForbidden: it is not below a folder that the operator named.
            ModelBusy: a model of this name is being changed already.
            ModelUnusable: the bundle cannot be used.
            ModelTooLarge: there is no memory for it.
        """
        allowed = await _in_thread(lambda: self._allowed(path))
        return await self._to_its_end(Change.LOAD, path, self.load_at(allowed, agreed))

    async def reload(self, name: str, agreed: Agreed = at_once) -> Loaded:
        """Load a model again from where it came: its own folder, or its newest version in the folder of models.

        Raises:
            ModelNotFound: there is none of this name.
            and as `load`.
        """
        return await self._to_its_end(Change.RELOAD, name, self._reload(self._engine.model(name), agreed))

    async def unload(self, name: str, agreed: Agreed = at_once) -> Loaded:
        """Stop routing new calls to a model; sessions continue with it until its grace period ends.

        Raises:
            ModelNotFound: there is none of this name.
            ModelBusy: it is being loaded.
            LastModel: there is no other.
        """
        return await self._to_its_end(Change.UNLOAD, name, self._unload(name, agreed))

    # Changes by the operator's folder and signals.

    async def load_at(self, path: Path, agreed: Agreed = at_once) -> Loaded:
        """Load the bundle at a path that no request gave; raises as `load`, but for ModelPathForbidden."""
        try:
            return await self._load_checked(await self._work(lambda: self._read(path)), agreed)
        except BundleStuck as problem:
            self.stuck = True
            raise ModelUnusable(problem) from problem
        except (BundleError, SigningProblem, OSError) as problem:
            raise ModelUnusable(problem) from problem

    def changing(self, name: str) -> bool:
        """Whether a model is being changed, so that another change of it is refused."""
        return name in self._loads

    async def in_folder(self, look: Callable[[ModelFolder], T]) -> T:
        """Look at the folder of models, in a thread; one look at a time.

        Raises:
            ModelUnusable: another look does not come to an end, because the disk does not answer; or the file of
                trusted keys cannot be used.
            and what `look` raises.
        """
        folder = self.folder
        assert folder is not None
        try:
            await asyncio.wait_for(self._folder_lock.acquire(), FOLDER_SECONDS)
        except asyncio.TimeoutError:
            raise ModelUnusable(f"{folder.path} does not answer; is its disk there?") from None
        try:
            return await _in_thread(lambda: look(folder))
        except SigningProblem as problem:
            raise ModelUnusable(problem) from problem
        finally:
            self._folder_lock.release()

    def stop(self) -> None:
        """Begin no more changes, and end running ones soon."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()

    def _allowed(self, path: str) -> Path:
        if not path or "\0" in path:
            raise InvalidRequest("path", f"{shown(path)} is not a path")
        base = self._settings.model_folder
        if base is None and not Path(path).is_absolute():
            raise InvalidRequest("path", f"{shown(path)} is relative, and this server has no --model-folder")
        try:
            resolved = (Path(path) if base is None else base / path).resolve()
        except (OSError, RuntimeError) as problem:  # a RuntimeError before Python 3.13
            raise InvalidRequest("path", f"{shown(path)} leads nowhere: its symbolic links go in a circle") from problem
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise ModelPathForbidden(path)
        return resolved

    async def _unload(self, name: str, agreed: Agreed) -> Loaded:
        with self._reserved(name):
            self._engine.require_another(name)
            await agreed()
            model = self._engine.unload(name, self._settings.model_grace_seconds)
        log.info("model %s (%s) is unloaded: %s", name, model.digest[:12], self._grace())
        self.changed.set()
        return Loaded(model, True)

    async def _reload(self, model: Model, agreed: Agreed) -> Loaded:
        path, folder = model.bundle.path, self.folder
        if folder is not None and await _in_thread(lambda: folder.has(path)):
            newest: Path | None = await self.in_folder(lambda folder: folder.newest(model.name))
            path = newest or path
        return await self.load_at(path, agreed)

    async def _load_checked(self, bundle: Bundle, agreed: Agreed) -> Loaded:
        settings, engine, manifest = self._settings, self._engine, bundle.manifest
        load = Load(manifest.name, bundle.path.name, manifest.digest)
        with self._reserved(manifest.name, load):
            async with self._one_load:
                serving = next((one for one in engine.models if one.name == manifest.name), None)
                if serving is not None and serving.digest == manifest.digest:
                    _found_at(bundle.path, serving)
                    return Loaded(serving, False)
                model = None
                if engine.drains(manifest.digest):
                    await agreed()
                    model = engine.serve_again(manifest.digest, settings.model_grace_seconds)
                if model is not None:
                    _found_at(bundle.path, model)
                else:
                    engine.require_room(bundle, kind_to_open(bundle, settings.decoder, settings.device))
                    load.stage = Stage.OPENING
                    decoder = await self._work(lambda: open_model(bundle, settings))
                    load.stage = Stage.TRYING
                    tried = await self._work(lambda: try_model(bundle, decoder, engine.limits.max_rows, self._rest))
                    await agreed()
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

    async def _to_its_end(self, change: Change, on: str, work: Coroutine[Any, Any, T]) -> T:
        """Run a change to completion even if its caller goes away, and return its result.

        Raises:
            Draining: the server's stop interrupted it.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, f"{change.value} of {shown(on)}"))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Draining from None
            raise

    def _ended(self, task: asyncio.Task[Any], what: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            # These concern only the caller, and are no error of the server.
            refused = isinstance(problem, (ModelNotFound, ModelBusy, LastModel, Draining))
            log.log(logging.INFO if refused else logging.ERROR, "%s was not done: %s", what, problem)

    def _grace(self) -> str:
        return f"sessions go on with it for {self._settings.model_grace_seconds:g} s"


def _found_at(path: Path, model: Model) -> None:
    """Update the path of a model's bundle, which may have been renamed."""
    model.bundle = replace(model.bundle, path=path)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run work in a daemon thread, which does not keep the process from ending."""
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
