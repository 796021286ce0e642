"""The models that an engine serves, each with its loom, whose results go to one event loop; and those that go.

A name has one model that serves. One that was replaced or unloaded is *draining*: sessions that began with it go on
with it until its grace is over, and calls until their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from charloom.bundle import INSPECTOR_FILE, Bundle, DecoderKind, LabelHead, Task, Vocabulary, read_label_head
from charloom.controls import ADAPTATION_INPUTS
from charloom.controls.adaptation import state_size
from charloom.engine.call_end import end_of_call
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.first_steps import FirstSteps, Pace, at_once, first_steps
from charloom.engine.decoding.inspector import check_inspector
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import InvalidRequest, ModelNotFound
from charloom.engine.limits import Limits
from charloom.engine.loom.cores import Cores, InTurn, Part
from charloom.engine.loom.jobs import Chunk
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.row import Delivery
from charloom.engine.loom.totals import LoomTotals
from charloom.engine.model_errors import LastModel, ModelOfAnotherTask, ModelRetired

REMEMBERED = 16
"""Digests of models that are gone of which the symbols are kept, so that their sessions can be moved."""
MODEL_BYTES, BYTES_PER_FILE_BYTE = 16 * 2**20, 4
"""What a model takes in memory, at most: measured as 25 MiB for an int8 decoder of 2 x 512 in 3 MiB, and 44 MiB for one
in fp32 of 12 MiB, in ONNX Runtime 1.32."""


@dataclass(eq=False)
class Model:
    """A loaded model."""

    name: str
    bundle: Bundle
    decoder: Decoder
    loom: Loom
    totals: LoomTotals
    """Of all versions with its name."""
    batch_invariant: bool
    memory: int
    """About how many bytes it takes, at most."""
    head: LabelHead | None = None
    """What makes labels of its state; None: it is a language model."""
    calls: int = 0
    """How many calls use it, of those whose end is known."""
    grace_ends: float | None = None
    """When it is draining: until when sessions go on with it, as `time.monotonic` tells it."""

    @property
    def digest(self) -> str:
        """One value for its weights, vocabulary and decoders."""
        return self.bundle.manifest.digest

    def goes_on_with(self, digest: str, *, adaptive: bool = False) -> bool:
        """Whether states of the model with this digest, or its adaptive states, are states of this one too."""
        return (digest == self.digest or digest in self.bundle.manifest.continues) and (self.learns or not adaptive)

    @property
    def vocabulary(self) -> Vocabulary:
        """Its symbols."""
        return self.bundle.vocabulary

    @property
    def task(self) -> Task:
        """What it does."""
        return self.bundle.manifest.task

    @property
    def in_grace(self) -> bool:
        """Whether sessions may go on with it."""
        return self.grace_ends is None or time.monotonic() < self.grace_ends

    @property
    def in_use(self) -> bool:
        """Whether a call goes on with it."""
        return bool(self.calls or self.loom.live or self.loom.waiting)

    @property
    def learns(self) -> bool:
        """Whether its sessions can be adaptive."""
        return self.task is Task.LANGUAGE_MODEL and self.decoder.lacks.isdisjoint(ADAPTATION_INPUTS)

    @property
    def adaptive_state_bytes(self) -> int:
        """How much larger the state of an adaptive session is; 0 where no session can be one."""
        return 4 * state_size(self.decoder.shape.vocabulary) if self.learns else 0

    def fresh(self, seed: int, *, adaptive: bool = False) -> Snapshot:
        """Zero state, before any text.

        Raises:
            InvalidRequest: it is to be adaptive, and the model cannot learn.
        """
        if adaptive and not self.learns:
            raise InvalidRequest(
                "adaptive",
                f"the model {self.name!r} was exported before sessions could learn; export it again "
                "(charloom export --from OLD NEW), or leave this out",
            )
        return Snapshot.fresh(self.decoder.shape, self.bundle.manifest.start_token, seed, adaptive=adaptive)

    def used(self) -> Model:
        """Itself, in use until the end of the call that runs in this task, where that is known."""
        if (at_end := end_of_call()) is not None:
            self.calls += 1
            at_end(self._unused)
        return self

    def _unused(self) -> None:
        self.calls -= 1


class TriedModel(NamedTuple):
    """A bundle whose decoder and inspector have taken their first steps."""

    bundle: Bundle
    decoder: Decoder
    first: FirstSteps
    head: LabelHead | None
    """Of a classifier."""


def try_model(bundle: Bundle, decoder: Decoder, most_rows: int, pace: Pace = at_once) -> TriedModel:
    """Let what was opened of a bundle take its first steps; on any thread.

    Raises:
        BundleError: they fail, or do not come to an end (BundleStuck); or a classifier's head cannot be used.
    """
    head = read_label_head(bundle)
    first = first_steps(bundle, decoder, most_rows, pace)
    if INSPECTOR_FILE in bundle.manifest.files:
        check_inspector(bundle)
    return TriedModel(bundle, decoder, first, head)


def memory_of(bundle: Bundle, kind: DecoderKind, limits: Limits) -> int:
    """Bytes that a model will take, at most, its states included."""
    cell = bundle.manifest.cell
    states = 4 * len(cell.arrays) * cell.layers * cell.hidden_size * limits.max_rows * limits.workers
    return MODEL_BYTES + BYTES_PER_FILE_BYTE * bundle.manifest.files[kind.file].bytes + 2 * states


def require_different_names(bundles: Sequence[Bundle]) -> None:
    """See that each model can be told by its name.

    Raises:
        ValueError: two have the same.
    """
    paths: dict[str, Path] = {}
    for bundle in bundles:
        name = bundle.manifest.name
        if name in paths:
            raise ValueError(
                f"two bundles are named {name!r}: {paths[name]} and {bundle.path}; export one with another --name"
            )
        paths[name] = bundle.path


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
        self._gone: dict[str, Vocabulary] = {}
        """By digest, the latest last."""
        self._cores = Cores(limits.workers)
        self._parts: dict[str, Part] = {}
        """Of the cores, by name: the versions of a model share one."""
        self._totals: dict[str, LoomTotals] = {}
        """By name, in the order of `order`: what counts only rises must not begin again with each version."""
        if not models:
            raise ValueError("an engine needs at least one model")
        require_different_names([bundle for bundle, _ in models])
        for tried in [try_model(bundle, decoder, limits.max_rows) for bundle, decoder in models]:
            self._models[tried.bundle.manifest.name] = self._made(tried)
        self._memory_at_first = self.memory

    def __iter__(self) -> Iterator[Model]:
        """Those that serve, in the order of `order`."""
        return iter([self._models[name] for name in self._totals if name in self._models])

    def order(self, names: Sequence[str] = ()) -> list[str]:
        """Names of models, also of those that do not serve and keep their place: `names`, then as they first served."""
        self._totals = {name: self._totals.get(name) or LoomTotals() for name in (*names, *self._totals)}
        return list(self._totals)

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
        return next(here, self._gone.get(digest))

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
            for digest in reversed(model.bundle.manifest.of_its_symbols):
                self._gone[digest] = model.vocabulary
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
        if name not in self._parts:
            self._parts[name] = self._cores.part(self._limits.model_weights.get(name, 1.0))
        return InTurn(decoder, self._parts[name])

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for row, chunk in deliveries:
        receiver = row.receiver
        if chunk.finish is not None:
            row.receiver = _nothing_follows  # no circle, which would keep the model until garbage is collected
        receiver(chunk)


def _nothing_follows(chunk: Chunk) -> None:
    raise AssertionError("a chunk came after the last one")
