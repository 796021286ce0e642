"""The order in which training reads tokens: a batch for each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import Tokens
from charloom.training.data.stream import Stream
from charloom.training.data.texts import CorpusError


class Batch(NamedTuple):
    """What one training step reads."""

    inputs: Tokens
    """[B, T]"""
    targets: Tokens
    """[B, T]: the token after each input"""
    resets: npt.NDArray[np.bool_] | None = None
    """[B, T]: where a document starts, and the state is zero before an input; None = nowhere"""
    soft: npt.NDArray[np.float16] | None = None
    """[B, T, V]: log-probabilities of the token after each input, as teachers predict it; None without teachers"""

    def rows(self, part: slice) -> Batch:
        """A batch of these rows alone."""
        resets = None if self.resets is None else self.resets[part]
        return Batch(self.inputs[part], self.targets[part], resets, None if self.soft is None else self.soft[part])


@dataclass(frozen=True, eq=False)
class Batches:
    """The training order: B contiguous streams, read T steps at a time, state carried from batch to batch.

    Each epoch starts at another offset, so that backpropagation is not always truncated at the same places. A batch
    is a function of (seed, step) alone, which is what makes a resumed run exact.

    In an epoch each token is a target once, except fewer than (B + 1) T tokens before the offset and at the end. There
    is no padding.
    """

    tokens: Stream | Tokens
    batch_size: int
    sequence_length: int
    seed: int
    soft_targets: npt.NDArray[np.float16] | None = None
    """[N - 1, V]: log-probabilities after each token, as teachers predict them"""

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            needed = (self.batch_size + 1) * self.sequence_length
            raise CorpusError(
                f"the training part has {len(self.tokens)} tokens, fewer than the {needed} that one batch of "
                f"batch_size {self.batch_size} x sequence_length {self.sequence_length} takes; "
                "give more text, or lower --batch-size or --sequence-length"
            )

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        longest_offset = self.sequence_length - 1
        stream = (len(self.tokens) - longest_offset - 1) // self.batch_size
        return stream // self.sequence_length

    def starts_epoch(self, step: int) -> bool:
        """Whether the state is zero before this step."""
        return step % self.per_epoch == 0

    def batch(self, step: int) -> Batch:
        """The batch that a step reads."""
        epoch, index = divmod(step, self.per_epoch)
        offset = int(np.random.default_rng([self.seed, epoch]).integers(self.sequence_length))
        length = self.per_epoch * self.sequence_length
        starts = offset + np.arange(self.batch_size) * length + index * self.sequence_length
        window = starts[:, None] + np.arange(self.sequence_length + 1)
        stream = Stream.of(self.tokens)
        block, read = stream[window], window[:, :-1]
        soft = None if self.soft_targets is None else np.asarray(self.soft_targets[read])
        return Batch(block[:, :-1], block[:, 1:], stream.resets(read), soft)
