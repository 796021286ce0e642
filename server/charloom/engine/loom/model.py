"""A loaded model with its loom, an estimate of its memory, and the trial run of a bundle before it serves."""

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
"""Upper bounds of a model's memory: a fixed part, and bytes for each byte of the decoder's file. Measured in ONNX
Runtime 1.32: 25 MiB for an int8 decoder of 2 x 512 in a file of 3 MiB, and 44 MiB for one in fp32 of 12 MiB."""


@dataclass(eq=False)
class Model:
    """A loaded model."""

    name: str
    bundle: Bundle
    decoder: Decoder
    loom: Loom
    totals: LoomTotals
    """Shared by all versions with its name."""
    batch_invariant: bool
    memory: int
    """Estimated upper bound of its memory, in bytes."""
    head: LabelHead | None = None
    """Turns its state into labels; None: it is a language model."""
    calls: int = 0
    """Number of calls that use it, counting only calls whose end is known (`end_of_call`)."""
    grace_ends: float | None = None
    """While it is draining: the `time.monotonic` time until which sessions may continue with it."""

    @property
    def digest(self) -> str:
        """Identifies its weights, vocabulary and decoders."""
        return self.bundle.manifest.digest

    def goes_on_with(self, digest: str, *, adaptive: bool = False) -> bool:
        """Whether this model can continue states, or adaptive states, of the model with this digest."""
        return (digest == self.digest or digest in self.bundle.manifest.continues) and (self.learns or not adaptive)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its bundle."""
        return self.bundle.vocabulary

    @property
    def task(self) -> Task:
        """The task of its bundle."""
        return self.bundle.manifest.task

    @property
    def in_grace(self) -> bool:
        """Whether sessions may continue with it: it serves, or its grace has not ended."""
        return self.grace_ends is None or time.monotonic() < self.grace_ends

    @property
    def in_use(self) -> bool:
        """Whether any call uses it."""
        return bool(self.calls or self.loom.live or self.loom.waiting)

    @property
    def learns(self) -> bool:
        """Whether its sessions can be adaptive."""
        return self.task is Task.LANGUAGE_MODEL and self.decoder.lacks.isdisjoint(ADAPTATION_INPUTS)

    @property
    def adaptive_state_bytes(self) -> int:
        """Bytes that an adaptive session adds to its state; 0 where the model cannot learn."""
        return 4 * state_size(self.decoder.shape.vocabulary) if self.learns else 0

    def fresh(self, seed: int, *, adaptive: bool = False) -> Snapshot:
        """The zero state, before any text.

        Raises:
            InvalidRequest: `adaptive`, and the model cannot learn.
        """
        if adaptive and not self.learns:
            raise InvalidRequest(
                "adaptive",
                f"the model {self.name!r} was exported before sessions could learn; export it again "
                "(charloom export --from OLD NEW), or leave this out",
            )
        return Snapshot.fresh(self.decoder.shape, self.bundle.manifest.start_token, seed, adaptive=adaptive)

    def used(self) -> Model:
        """Mark it as in use until the present call ends, if that end is known (`end_of_call`); returns itself."""
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
    """None: it is a language model."""


def try_model(bundle: Bundle, decoder: Decoder, most_rows: int, pace: Pace = at_once) -> TriedModel:
    """Run the first steps of a bundle's decoder and inspector; on any thread.

    Raises:
        BundleError: they fail, or do not end (BundleStuck); or a classifier's head cannot be used.
    """
    head = read_label_head(bundle)
    first = first_steps(bundle, decoder, most_rows, pace)
    if INSPECTOR_FILE in bundle.manifest.files:
        check_inspector(bundle)
    return TriedModel(bundle, decoder, first, head)


def memory_of(bundle: Bundle, kind: DecoderKind, limits: Limits) -> int:
    """Upper bound of the bytes that a model will take, its states included."""
    cell = bundle.manifest.cell
    states = 4 * len(cell.arrays) * cell.layers * cell.hidden_size * limits.max_rows * limits.workers
    return MODEL_BYTES + BYTES_PER_FILE_BYTE * bundle.manifest.files[kind.file].bytes + 2 * states


def require_different_names(bundles: Sequence[Bundle]) -> None:
    """Check that no two models have the same name.

    Raises:
        ValueError: two have.
    """
    paths: dict[str, Path] = {}
    for bundle in bundles:
        name = bundle.manifest.name
        if name in paths:
            raise ValueError(
                f"two bundles are named {name!r}: {paths[name]} and {bundle.path}; export one with another --name"
            )
        paths[name] = bundle.path
