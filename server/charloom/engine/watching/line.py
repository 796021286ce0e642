"""Converts a line to the tokens that a model reads, and the tokens' scores back to the line's characters.

Knows: vocabularies, masks. Does not know: decoders, sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import Mask, Tokens, Unit, Vocabulary
from charloom.engine.watching.surprise import UNKNOWN_NATS, surprise

LINE_BREAK = "\n"


class Scored(NamedTuple):
    """The scores of a line."""

    surprise: float
    """See `surprise`."""
    nats: float
    """The sum over the line, its line break included."""
    tokens: int
    """Number of tokens in that sum; characters without a symbol count as one each."""
    surprisals: Sequence[float]
    """Nats of each character that was read; those of a masked number are all on its first character."""


@dataclass(frozen=True, eq=False)
class ReadLine:
    """A line, and how the model reads it. Characters that the model lacks are not refused."""

    length: int
    """Number of characters of the line that are read."""
    cut: bool
    """Whether the line has more."""
    tokens: Tokens
    """[T], what the network reads: the characters that the model has symbols for, and the line break if it has one."""
    owners: npt.NDArray[np.int64]
    """[T + U], for each of the T tokens, then for each of the U characters without a symbol: the index in the line of
    the character that it belongs to, or `length` for the line break."""
    order: npt.NDArray[np.int64]
    """[T + U], the indices into `owners` that sort it into the order of the line."""

    @classmethod
    def of(cls, text: str, vocabulary: Vocabulary, mask: Mask, longest: int) -> ReadLine:
        """Encode a line for a model of characters or bytes.

        Args:
            text: the line, without its line break
            vocabulary: of the model
            mask: which numbers are replaced, so that they are alike
            longest: most characters that are read
        """
        line = vocabulary.normalisation.apply(text[:longest]).encode("utf-8", "replace").decode()
        masked, places = mask.apply_with_places(line)
        characters, owners = masked + LINE_BREAK, np.array([*places, len(line)], np.int64)
        if vocabulary.unit is Unit.BYTE:
            widths = np.array([len(one.encode()) for one in characters])
            tokens, known = vocabulary.encode(characters), np.repeat(owners, widths)
            return cls(len(line), len(text) > longest, tokens, known, np.arange(len(known)))
        tokens = vocabulary.encode(characters, skip_unknown=True)
        has = {one: len(vocabulary.encode(one, skip_unknown=True)) > 0 for one in set(characters)}
        knows = np.array([has[one] for one in characters], np.bool_)
        at = np.concatenate([np.flatnonzero(knows), np.flatnonzero(~knows)])
        return cls(len(line), len(text) > longest, tokens, owners[at], np.argsort(at, kind="stable"))

    def scored(self, nats: npt.NDArray[np.float64]) -> Scored:
        """Score the line.

        Args:
            nats: [T], the negative log-probabilities of its tokens
        """
        unknown = np.full(len(self.owners) - len(self.tokens), UNKNOWN_NATS, np.float64)
        each = np.concatenate([nats, unknown])
        by_character = np.zeros(self.length + 1)
        np.add.at(by_character, self.owners, each)
        found = surprise(each[self.order])
        return Scored(found, float(each.sum()), len(each), by_character[: self.length].tolist())
