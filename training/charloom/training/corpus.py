"""A text file as training and validation tokens, and the order in which training reads them.

Knows: text, vocabulary, batches as arrays. Does not know: models, torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import Tokens, Unit, Vocabulary, vocabulary_of


class CorpusError(ValueError):
    """A text cannot be trained on; the message says why and what to do."""


@dataclass(frozen=True)
class Corpus:
    """A text, split contiguously: training part first, validation part last."""

    vocabulary: Vocabulary
    train: Tokens
    """[N], the first part"""
    validation: Tokens
    """[M], the last part"""
    sha256: str
    """Of the file's bytes."""
    characters: int
    name: str


def read_text(path: Path) -> tuple[str, str]:
    """The text of a UTF-8 file, without a byte order mark, and the sha256 of its bytes.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise CorpusError(f"cannot read {path}: {problem.strerror}; give the path of a text file") from problem
    if not raw:
        raise CorpusError(f"{path} is empty; give a file with text")
    try:
        return raw.decode("utf-8-sig"), hashlib.sha256(raw).hexdigest()
    except UnicodeDecodeError as problem:
        raise CorpusError(
            f"{path} is not UTF-8: byte 0x{raw[problem.start]:02x} at offset {problem.start} ({problem.reason}); "
            "convert it, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from problem


def read_corpus(path: Path, unit: Unit, validation_share: float = 0.1, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read a file, make (or take) its vocabulary, and split it at `1 - validation_share`.

    Raises:
        CorpusError: the file cannot be read as UTF-8 text.
        UnknownSymbolsError: a given `vocabulary` lacks characters of the text.
    """
    text, sha256 = read_text(path)
    vocabulary = vocabulary or vocabulary_of(text, unit)
    tokens = vocabulary.encode(text)
    cut = int(len(tokens) * (1 - validation_share))
    return Corpus(vocabulary, tokens[:cut], tokens[cut:], sha256, len(text), path.name)


class Batch(NamedTuple):
    """What one training step reads."""

    inputs: npt.NDArray[np.int64]
    """[B, T]"""
    targets: npt.NDArray[np.int64]
    """[B, T]: the token after each input"""
    resets: npt.NDArray[np.bool_] | None = None
    """[B, T]: where the state is zero before an input; None = nowhere"""

    def rows(self, part: slice) -> Batch:
        """Some rows of it."""
        return Batch(self.inputs[part], self.targets[part], None if self.resets is None else self.resets[part])


@dataclass(frozen=True)
class Batches:
    """The training order: B contiguous streams, read T steps at a time, state carried from batch to batch.

    Each epoch starts at another offset, so that backpropagation is not always truncated at the same places. A batch
    is a function of (seed, step) alone, which is what makes a resumed run exact.
    """

    tokens: Tokens
    batch_size: int
    sequence_length: int
    seed: int

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
        """What one step reads."""
        epoch, index = divmod(step, self.per_epoch)
        offset = int(np.random.default_rng([self.seed, epoch]).integers(self.sequence_length))
        stream = self.per_epoch * self.sequence_length
        starts = offset + np.arange(self.batch_size) * stream + index * self.sequence_length
        window = starts[:, None] + np.arange(self.sequence_length + 1)
        block = self.tokens[window]
        return Batch(block[:, :-1], block[:, 1:])
