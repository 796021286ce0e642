"""Tokens one after the other, and where documents start among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from charloom.bundle import Tokens
from charloom.training.data.texts import CorpusError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """A text, or documents *packed*: one directly after the other, without padding.

    A document is the start token and then its own tokens, as a fresh session is on a server. The last token of a
    document has the next one's start token as its target, which is how a model learns where texts end.
    """

    tokens: npt.NDArray[np.integer[Any]]
    """[N], of any type of integer; perhaps a file that is mapped into memory"""
    starts: Ints | None = None
    """[D], ascending: where documents start, the first one at 0; None for one text"""

    @classmethod
    def of(cls, tokens: Stream | Tokens) -> Stream:
        """A stream of these tokens; an array is one text."""
        return tokens if isinstance(tokens, Stream) else cls(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, places: slice | Ints) -> Tokens:
        """The tokens at some places."""
        return np.array(self.tokens[places], np.int64)

    def tolist(self) -> list[int]:
        """All tokens."""
        return [int(token) for token in self.tokens]

    def resets(self, places: Ints) -> npt.NDArray[np.bool_] | None:
        """Where the state is to be zero before the token at that place; None for one text."""
        if self.starts is None:
            return None
        found = np.minimum(np.searchsorted(self.starts, places), len(self.starts) - 1)
        return np.asarray(self.starts[found] == places)

    def part(self, start: int, end: int) -> Stream:
        """The tokens from `start` up to `end`."""
        if self.starts is None:
            return Stream(self.tokens[start:end])
        first, last = np.searchsorted(self.starts, [start, end])
        return Stream(self.tokens[start:end], self.starts[first:last] - start)

    def split(self, share: float) -> tuple[Stream, Stream]:
        """What is to be trained on, and the last `share` of it, for validation; no document is cut.

        Raises:
            CorpusError: there is one document only.
        """
        cut = int(len(self) * (1 - share))
        if self.starts is not None:
            if len(self.starts) < 2:
                raise CorpusError(
                    f"the text has {len(self.starts)} document(s); at least one to train on and one to validate with "
                    "are needed: give more text, or take it as one with --documents stream"
                )
            above = int(np.clip(np.searchsorted(self.starts, cut), 1, len(self.starts) - 1))
            below = max(1, above - 1)
            cut = int(min(self.starts[below], self.starts[above], key=lambda start: abs(int(start) - cut)))
        return self.part(0, cut), self.part(cut, len(self))
