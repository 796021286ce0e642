"""The models of an engine, serving and draining, each with its loom; their results go to one event loop.

One model of each name serves. A model that was replaced or unloaded is *draining*: its sessions may continue with it
until its grace ends, and its calls until they end.
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
"""Number of removed models whose vocabularies are kept, so that their sessions can be moved to other models."""


class Models:
    """Models by name, the default one first; make it inside the event loop that will use it.

    Raises:
        ValueError: there is no model, or two have the same name.
        BundleError: the first steps of a decoder or inspector fail, or do not end (BundleStuck).
    """

    def __init__(self, models: Sequence[tuple[Bundle, Decoder]], limits: Limits) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._limits = limits
        self._models: dict[str, Model] = {}
        self._draining: list[Model] = []
        self._gone: dict[frozenset[str], Vocabulary] = {}
        """Vocabularies of removed models, by all digests with the same vocabulary; oldest first."""
        self._cores = Cores(limits.workers)
        self._flows: dict[str, Flow] = {}
        """By model name: the versions of a model share one flow of the cores."""
        self._totals: dict[str, LoomTotals] = {}
        """By model name: counters must not start again at 0 with each version."""
        self._order: list[str] = []
        if not models:
            raise ValueError("an engine needs at least one model")
        require_different_names([bundle for bundle, _ in models])
        for tried in [try_model(bundle, decoder, limits.max_rows) for bundle, decoder in models]:
            self._models[tried.bundle.manifest.name] = self._made(tried)
        self._memory_at_first = self.memory

    def __iter__(self) -> Iterator[Model]:
        """Iterate over the serving models, in the order of `order`."""
        return iter([self._models[name] for name in self._order if name in self._models])

    @property
    def order(self) -> list[str]:
        """Model names in order, the default one first; names that do not serve now keep their place."""
        return list(self._order)

    def put_first(self, names: Sequence[str]) -> None:
        """Move these names to the front of `order`, whether they serve or not; the others keep their order."""
        self._order = list(dict.fromkeys((*names, *self._order)))

    @property
    def draining(self) -> Sequence[Model]:
        """The models that get no new work."""
        return tuple(self._draining)

    @property
    def everything(self) -> Sequence[Model]:
        """All loaded models, serving and draining."""
        return (*self, *self._draining)

    @property
    def memory(self) -> int:
        """Upper bound of the bytes that all loaded models take."""
        return sum(model.memory for model in self.everything)

    @property
    def more_memory(self) -> int:
        """Growth of `memory` since the start, in bytes; may be negative."""
        return self.memory - self._memory_at_first

    def named(self, name: str, digest: str = "", task: Task = Task.LANGUAGE_MODEL) -> Model:
        """The model of this name, marked as used until the end of the present call (`Model.used`).

        Args:
            name: the name; empty: the first model for the task
            digest: of the version that the call uses already, even if another serves now; empty: the serving version
            task: the task that the model must have

        Raises:
            ModelNotFound: there is none.
            ModelOfAnotherTask: it has another task.
        """
        held = next((model for model in self.everything if model.digest == digest), None) if digest else None
        if held is None:
            return self.find(name, task).used()
        self._require_task(held, task)
        return held.used()

    def find(self, name: str, task: Task | None = None) -> Model:
        """The serving model of this name, without marking it as used.

        Args:
            name: the name; empty: the first model for the task
            task: the task that the model must have; None: any

        Raises:
            ModelNotFound: there is none.
            ModelOfAnotherTask: it has another task.
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
        """The serving model of exactly this name, or None."""
        return self._models.get(name)

    def with_digest(self, digest: str, *, adaptive: bool) -> Model | None:
        """The model of this digest, or one that can continue its (adaptive) states, marked as used (`Model.used`).

        None where there is neither, or its grace has ended.
        """
        able = [model for model in self.everything if model.in_grace and model.goes_on_with(digest, adaptive=adaptive)]
        found = next((model for model in able if model.digest == digest), able[0] if able else None)
        return None if found is None else found.used()

    def vocabulary_of(self, digest: str) -> Vocabulary | None:
        """The vocabulary of a present or removed model, or of one that it has replaced; None: unknown."""
        here = (model.vocabulary for model in self.everything if digest in model.bundle.manifest.of_its_symbols)
        gone = (vocabulary for digests, vocabulary in self._gone.items() if digest in digests)
        return next(here, next(gone, None))

    def require_not_retired(self, what: str, name: str, digest: str, advice: str) -> None:
        """Raise if the model of a state that no model can continue was once loaded here.

        Args:
            what: what the state belongs to, such as "session 'a'"
            name, digest: of its model
            advice: for the error: what to do

        Raises:
            ModelRetired: the model was loaded here, and its grace has ended.
        """
        if self.vocabulary_of(digest) is not None:
            raise ModelRetired(what, name, digest, advice)

    # Changes, on the event loop.

    def serve(self, tried: TriedModel, grace: float) -> Model:
        """Send new calls to this model; the present one of its name drains, for at least `grace` seconds."""
        return self._put(self._made(tried), grace)

    def serve_again(self, digest: str, grace: float) -> Model | None:
        """Send new calls to a draining model again; None where it is gone. `grace` as for `serve`."""
        found = next((model for model in self._draining if model.digest == digest), None)
        if found is None:
            return None
        self._draining.remove(found)
        found.grace_ends = None
        return self._put(found, grace)

    def require_another(self, name: str) -> None:
        """Check that a model can be unloaded.

        Raises:
            ModelNotFound: there is none of this name.
            LastModel: it is the only one.
        """
        if name not in self._models:
            raise ModelNotFound(name, list(self._models))
        if len(self._models) == 1:
            raise LastModel(name)

    def unload(self, name: str, grace: float) -> Model:
        """Let a model drain without replacing it; raises as `require_another`."""
        self.require_another(name)
        model = self._models.pop(name)
        self._drain(model, grace)
        return model

    def let_go(self) -> Sequence[Model]:
        """Remove the draining models whose grace has ended and that no call uses; the caller drains their looms."""
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
        """The decoder, sharing the cores with the other models if it runs on the CPU."""
        if decoder.device != "cpu":
            return decoder
        if name not in self._flows:
            self._flows[name] = self._cores.flow(self._limits.model_weights.get(name, 1.0))
        return InTurn(decoder, self._flows[name])

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: no receiver is left
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for row, chunk in deliveries:
        receiver = row.receiver
        if chunk.finish is not None:
            row.receiver = _nothing_follows  # breaks a cycle, which would keep the model until garbage is collected
        try:
            receiver(chunk)
        except Exception:  # the other calls must get their chunks
            log.exception("a call did not take what the loom has brought")


def _nothing_follows(chunk: Chunk) -> None:
    raise AssertionError("a chunk came after the last one")
