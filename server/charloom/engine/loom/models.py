"""The models that an engine serves, each with its loom, whose results go to one event loop; and those that go.

A name has one model that serves. One that was replaced or unloaded is *draining*: sessions that began with it go on
with it until its grace is over, and calls until their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

from charloom.bundle import Bundle, DecoderKind, Task, Vocabulary
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.errors import ModelNotFound
from charloom.engine.limits import Limits
from charloom.engine.loom.cores import Cores, Flow, InTurn
from charloom.engine.loom.jobs import Chunk
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.model import Model, TriedModel, memory_of, require_different_names, try_model
from charloom.engine.loom.row import Delivery
from charloom.engine.loom.totals import LoomTotals
from charloom.engine.model_errors import LastModel, ModelOfAnotherTask, ModelRetired

log = logging.getLogger(__name__)

REMEMBERED = 16
"""Models that are gone of which the symbols are kept, so that their sessions can be moved."""


class Models:
    """Models by name, the default one first; make it inside the event loop that will use it.

    Raises:
        ValueError: there is no model, or two have the same name.
        BundleError: the first steps of a decoder or inspector fail, or do not come to an end (BundleStuck).
    """

    def __init__(self, models: Sequence[tuple[Bundle, Decoder]], limits: Limits) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._limits = limits
        self._models: dict[str, Model] = {}
        self._draining: list[Model] = []
        self._gone: dict[frozenset[str], Vocabulary] = {}
        """By the digests that have a model's symbols, the model that went last last."""
        self._cores = Cores(limits.workers)
        self._flows: dict[str, Flow] = {}
        """Of the cores, by name: the versions of a model share one."""
        self._totals: dict[str, LoomTotals] = {}
        """By name: what counts only rises must not begin again with each version."""
        self._order: list[str] = []
        if not models:
            raise ValueError("an engine needs at least one model")
        require_different_names([bundle for bundle, _ in models])
        for tried in [try_model(bundle, decoder, limits.max_rows) for bundle, decoder in models]:
            self._models[tried.bundle.manifest.name] = self._made(tried)
        self._memory_at_first = self.memory

    def __iter__(self) -> Iterator[Model]:
        """Those that serve, in the order of `order`."""
        return iter([self._models[name] for name in self._order if name in self._models])

    @property
    def order(self) -> list[str]:
        """Names of models in their order, also of those that do not serve and keep their place."""
        return list(self._order)

    def put_first(self, names: Sequence[str]) -> None:
        """Let models of these names come first, whether they serve or not; then the others, in the order they have."""
        self._order = list(dict.fromkeys((*names, *self._order)))

    @property
    def draining(self) -> Sequence[Model]:
        """Those that do not serve new work any more."""
        return tuple(self._draining)

    @property
    def everything(self) -> Sequence[Model]:
        """All of them, whatever their state."""
        return (*self, *self._draining)

    @property
    def memory(self) -> int:
        """Bytes that all of them take, at most."""
        return sum(model.memory for model in self.everything)

    @property
    def more_memory(self) -> int:
        """How many more bytes they may take than those that there were at first; below 0 where they take less."""
        return self.memory - self._memory_at_first

    def named(self, name: str, digest: str = "", task: Task = Task.LANGUAGE_MODEL) -> Model:
        """The model of this name; empty for the first that does such a task. The call that asks uses it until its end.

        Args:
            name: the name
            digest: of the version that the call uses already, whatever serves now; empty: the one that serves
            task: what it is asked to do

        Raises:
            ModelNotFound: there is none.
            ModelOfAnotherTask: it does something else.
        """
        held = next((model for model in self.everything if model.digest == digest), None) if digest else None
        if held is None:
            return self.find(name, task).used()
        self._require_task(held, task)
        return held.used()

    def find(self, name: str, task: Task | None = None) -> Model:
        """The model of this name, for who does not use it; empty for the first one that does such a task.

        Args:
            name: the name
            task: what it is to do; None: anything

        Raises:
            ModelNotFound: there is none.
            ModelOfAnotherTask: it does something else.
        """
        if not name:
            model = next((model for model in self if task in (None, model.task)), next(iter(self)))
        elif name in self._models:
            model = self._models[name]
        else:
            raise ModelNotFound(name, list(self._models))
        if task is not None:
            self._require_task(model, task)
        return model

    def _require_task(self, model: Model, task: Task) -> None:
        if model.task is not task:
            others = [other.name for other in self if other.task is task]
            raise ModelOfAnotherTask(model.name, model.task, task, others)

    def loaded(self, name: str) -> Model | None:
        """The model of exactly this name, if it is loaded and serves."""
        return self._models.get(name)

    def with_digest(self, digest: str, *, adaptive: bool) -> Model | None:
        """The model of this digest, if sessions may go on with it, or adaptive ones. The call that asks uses it until
        its end.
        """
        able = [model for model in self.everything if model.in_grace and model.goes_on_with(digest, adaptive=adaptive)]
        found = next((model for model in able if model.digest == digest), able[0] if able else None)
        return None if found is None else found.used()

    def vocabulary_of(self, digest: str) -> Vocabulary | None:
        """The symbols of a model that is here, or was, or whose place one of those took."""
        here = (model.vocabulary for model in self.everything if digest in model.bundle.manifest.of_its_symbols)
        gone = (vocabulary for digests, vocabulary in self._gone.items() if digest in digests)
        return next(here, next(gone, None))

    def require_not_retired(self, what: str, name: str, digest: str, advice: str) -> None:
        """Tell apart what no model here can go on with: where that is one that was here.

        Args:
            what: whose state it is, such as "session 'a'"
            name, digest: of its model
            advice: what to do then

        Raises:
            ModelRetired: it was here, and its grace is over.
        """
        if self.vocabulary_of(digest) is not None:
            raise ModelRetired(what, name, digest, advice)

    # Changed, on the event loop.

    def serve(self, tried: TriedModel, grace: float) -> Model:
        """Let new calls go to a model from now on; the one of its name drains, for `grace` seconds at least."""
        return self._put(self._made(tried), grace)

    def serve_again(self, digest: str, grace: float) -> Model | None:
        """Let new calls go to a model that is draining, if it is still here."""
        found = next((model for model in self._draining if model.digest == digest), None)
        if found is None:
            return None
        self._draining.remove(found)
        found.grace_ends = None
        return self._put(found, grace)

    def require_another(self, name: str) -> None:
        """See that a model can be unloaded.

        Raises:
            ModelNotFound: there is none of this name.
            LastModel: there is no other.
        """
        if name not in self._models:
            raise ModelNotFound(name, list(self._models))
        if len(self._models) == 1:
            raise LastModel(name)

    def unload(self, name: str, grace: float) -> Model:
        """Let a model drain that nothing replaces; raises as `require_another`."""
        self.require_another(name)
        model = self._models.pop(name)
        self._drain(model, grace)
        return model

    def let_go(self) -> Sequence[Model]:
        """Forget those whose grace is over and that no call uses; their looms are to be drained."""
        over = [model for model in self._draining if not model.in_grace and not model.in_use]
        for model in over:
            self._draining.remove(model)
            digests = frozenset(model.bundle.manifest.of_its_symbols)
            self._gone.pop(digests, None)
            self._gone[digests] = model.vocabulary
        while len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        return over

    def _put(self, model: Model, grace: float) -> Model:
        before = self._models.get(model.name)
        self._models[model.name] = model
        if before is not None:
            self._drain(before, grace)
        return model

    def _drain(self, model: Model, grace: float) -> None:
        model.grace_ends = time.monotonic() + grace
        self._draining.append(model)

    def _made(self, tried: TriedModel) -> Model:
        limits, name = self._limits, tried.bundle.manifest.name
        totals = self._totals.setdefault(name, LoomTotals())
        self.put_first([*self._order, name])
        loom = Loom(
            self._in_turn(name, tried.decoder),
            self._deliver,
            cost=tried.first.cost,
            workers=limits.workers,
            tick_seconds=limits.tick_seconds,
            max_rows=limits.max_rows,
            max_waiting=limits.max_waiting,
            unread_limit=limits.unread_tokens,
            totals=totals,
        )
        memory = memory_of(tried.bundle, DecoderKind(tried.decoder.kind), limits)
        return Model(name, tried.bundle, tried.decoder, loom, totals, tried.first.batch_invariant, memory, tried.head)

    def _in_turn(self, name: str, decoder: Decoder) -> Decoder:
        """Sharing the cores with the other models, if it uses any."""
        if decoder.device != "cpu":
            return decoder
        if name not in self._flows:
            self._flows[name] = self._cores.flow(self._limits.model_weights.get(name, 1.0))
        return InTurn(decoder, self._flows[name])

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for row, chunk in deliveries:
        receiver = row.receiver
        if chunk.finish is not None:
            row.receiver = _nothing_follows  # no circle, which would keep the model until garbage is collected
        try:
            receiver(chunk)
        except Exception:  # the other calls are to have theirs
            log.exception("a call did not take what the loom has brought")


def _nothing_follows(chunk: Chunk) -> None:
    raise AssertionError("a chunk came after the last one")
