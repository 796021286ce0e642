"""Models are loaded, replaced and unloaded while the server runs.

A load is, in this order: read and verified, opened, tried and so warmed, beside what serves; then new calls go to it,
and the model that had its name drains. What fails on the way changes nothing.
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
"""How long a look at the folder of models waits for another one."""
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
    """What a change has brought."""

    model: Model
    changed: bool
    """Whether another model serves under its name than before, or none does now."""


class Change(Enum):
    """What is done to models, when asked."""

    LOAD = "load"
    RELOAD = "reload"
    UNLOAD = "unload"


Agreed = Callable[[], Awaitable[None]]
"""Waited for once all that can fail is done, before anything changes; what it raises ends the change."""


async def at_once() -> None:
    """Nobody else has to agree."""


def open_model(bundle: Bundle, settings: ServerSettings) -> Decoder:
    """The decoder of a bundle; the log tells of a chat template that the model cannot read.

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

    What `ModelUpkeep` has loaded goes through it as requests do.
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
        """By the name of the model that is being changed."""
        self._one_load = asyncio.Lock()
        self._folder_lock = asyncio.Lock()
        self._stopped = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Event()
        """Set whenever other models serve than before; whoever waits for it clears it."""
        self.stuck = False
        """Whether a file of a bundle did not come to an end, so that a thread goes on."""

    @property
    def loads(self) -> list[Load]:
        """Those that go on."""
        return [load for load in self._loads.values() if load is not None]

    @property
    def paths(self) -> list[str]:
        """Where the models that serve came from, the default one first."""
        return [str(model.bundle.path.absolute()) for model in self._engine.models]

    @property
    def digests(self) -> dict[str, str]:
        """Those of the models that serve, by where they came from."""
        return {str(model.bundle.path.absolute()): model.digest for model in self._engine.models}

    # Asked for. A change goes on when whoever asked for it goes away.

    async def change(self, change: Change, on: str, agreed: Agreed = at_once) -> Loaded:
        """Load, reload or unload; `on` is the path or the name that these take."""
        does = {Change.LOAD: self.load, Change.RELOAD: self.reload, Change.UNLOAD: self.unload}
        return await does[change](on, agreed)

    async def load(self, path: str, agreed: Agreed = at_once) -> Loaded:
        """Load a bundle, and let new calls of its name go to it.

        Args:
            path: of the bundle, absolute, or relative to the folder of models
            agreed: before they do

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
        """Let a model serve no new calls; sessions go on with it until its grace is over.

        Raises:
            ModelNotFound: there is none of this name.
            ModelBusy: it is being loaded.
            LastModel: there is no other.
        """
        return await self._to_its_end(Change.UNLOAD, name, self._unload(name, agreed))

    # Wanted by the operator's folder and signals.

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
        """What a change brings; it goes on when whoever asked for it goes away.

        Raises:
            Draining: the end of the server has broken it off.
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
            # Of these only who asked has to know.
            refused = isinstance(problem, (ModelNotFound, ModelBusy, LastModel, Draining))
            log.log(logging.INFO if refused else logging.ERROR, "%s was not done: %s", what, problem)

    def _grace(self) -> str:
        return f"sessions go on with it for {self._settings.model_grace_seconds:g} s"


def _found_at(path: Path, model: Model) -> None:
    """The bundle of a model is here now: it may have been renamed, and where it was there may be nothing more."""
    model.bundle = replace(model.bundle, path=path)


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
