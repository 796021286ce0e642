"""A model that is loaded, with its loom; what it takes in memory; and how a bundle is tried before it becomes one."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import Limits
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.totals import LoomTotals

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
