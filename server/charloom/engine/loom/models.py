"""The models that an engine serves, each with its loom, whose results go to one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charloom.bundle import INSPECTOR_FILE, Bundle, Vocabulary
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.first_steps import first_steps
from charloom.engine.decoding.inspector import check_inspector
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import ModelNotFound
from charloom.engine.limits import Limits
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.row import Delivery


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    name: str
    bundle: Bundle
    decoder: Decoder
    loom: Loom
    batch_invariant: bool

    @property
    def digest(self) -> str:
        """One value for its weights, vocabulary and decoders."""
        return self.bundle.manifest.digest

    @property
    def vocabulary(self) -> Vocabulary:
        """Its symbols."""
        return self.bundle.vocabulary

    def fresh(self, seed: int) -> Snapshot:
        """Zero state, before any text."""
        return Snapshot.fresh(self.decoder.shape, self.bundle.manifest.start_token, seed)


class Models:
    """Models by name, the default one first; make it inside the event loop that will use it.

    Raises:
        ValueError: there is no model, or two have the same name.
        BundleError: the first steps of a decoder or inspector fail, or do not come to an end (BundleStuck).
    """

    def __init__(self, models: Sequence[tuple[Bundle, Decoder]], limits: Limits) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._models: dict[str, Model] = {}
        if not models:
            raise ValueError("an engine needs at least one model")
        paths: dict[str, Path] = {}
        for bundle, _ in models:
            name = bundle.manifest.name
            if name in paths:
                raise ValueError(
                    f"two bundles are named {name!r}: {paths[name]} and {bundle.path}; export one with another --name"
                )
            paths[name] = bundle.path
        tried = [first_steps(bundle, decoder, limits.max_rows) for bundle, decoder in models]
        for bundle, _ in models:
            if INSPECTOR_FILE in bundle.manifest.files:
                check_inspector(bundle)
        for (bundle, decoder), first in zip(models, tried, strict=True):
            name = bundle.manifest.name
            loom = Loom(
                decoder,
                self._deliver,
                cost=first.cost,
                workers=limits.workers,
                tick_seconds=limits.tick_seconds,
                max_rows=limits.max_rows,
                max_waiting=limits.max_waiting,
                unread_limit=limits.unread_tokens,
            )
            self._models[name] = Model(name, bundle, decoder, loom, first.batch_invariant)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def named(self, name: str) -> Model:
        """The model of this name; empty for the default one.

        Raises:
            ModelNotFound: there is none.
        """
        if not name:
            return next(iter(self))
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound(name, list(self._models)) from None

    def loaded(self, name: str) -> Model | None:
        """The model of exactly this name, if it is loaded."""
        return self._models.get(name)

    def with_digest(self, digest: str) -> Model | None:
        """The model of this digest, if it is loaded."""
        return next((model for model in self if model.digest == digest), None)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """On the worker's thread: one wake-up of the event loop for everything that a tick brought."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(_hand_out, deliveries)


def _hand_out(deliveries: Sequence[Delivery]) -> None:
    for row, chunk in deliveries:
        row.receiver(chunk)
