"""How probable the tokens of a text were, and which others were: kept as arrays, since there may be a million of them.

Arrays take a fraction of the memory of Python objects; and the garbage collector, which holds the interpreter's lock
while it looks at every object that can hold others, has nothing to look at in them.

Axis letters: K steps, B rows.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Floats, Outputs


class TokenLogprob(NamedTuple):
    """How probable a token was, and the most probable tokens at its position."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]
    """Token and log-probability, the most probable first."""
    allowed: float = 0.0
    """Natural logarithm of the probability that the call's constraint left at its position."""


class Block(NamedTuple):
    """Some tokens in order, with `top` alternatives each."""

    token: npt.NDArray[np.int32]
    """[K]"""
    logprob: Floats
    """[K]"""
    allowed: Floats
    """[K]"""
    top_token: npt.NDArray[np.int32]
    """[K, top]"""
    top_logprob: Floats
    """[K, top]"""

    def part(self, start: int, stop: int) -> Block:
        """The tokens from one place to before another; it shares memory with this."""
        return Block._make(array[start:stop] for array in self)

    def each(self) -> Iterator[TokenLogprob]:
        """Its tokens."""
        token, logprob, allowed, *top = (array.tolist() for array in self)
        for one, own, left, others, theirs in zip(token, logprob, allowed, *top, strict=True):
            yield TokenLogprob(one, own, list(zip(others, theirs, strict=True)), left)


class Logprobs(Sequence[TokenLogprob]):
    """Tokens in order with their log-probabilities; a `TokenLogprob` is made when somebody looks at it.

    Args:
        blocks: of at least one token each
    """

    __slots__ = ("_blocks", "_ends")

    def __init__(self, blocks: Sequence[Block] = ()) -> None:
        self._blocks = blocks
        self._ends = list(itertools.accumulate(len(block.token) for block in blocks))

    @classmethod
    def joined(cls, parts: Iterable[Logprobs]) -> Logprobs:
        """One after the other; they share memory with this."""
        return cls([block for part in parts for block in part._blocks])

    def packed(self) -> Logprobs:
        """The same in one block. All tokens must have as many alternatives."""
        if len(self._blocks) <= 1:
            return self
        return Logprobs([Block._make(np.concatenate(arrays) for arrays in zip(*self._blocks, strict=True))])

    @property
    def tokens(self) -> list[int]:
        """The tokens alone."""
        return [token for block in self._blocks for token in block.token.tolist()]

    @property
    def values(self) -> list[float]:
        """The log-probabilities alone."""
        return [logprob for block in self._blocks for logprob in block.logprob.tolist()]

    def distribution(self, place: int, size: int) -> Floats:
        """The log-probability of each token at a place, [size]; minus infinity of those that are not told."""
        (block,) = self[place : place + 1]._blocks
        found = np.full(size, -np.inf, np.float32)
        found[block.top_token[0]] = block.top_logprob[0]
        return found

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[TokenLogprob]:
        return itertools.chain.from_iterable(block.each() for block in self._blocks)

    @overload
    def __getitem__(self, index: int) -> TokenLogprob: ...

    @overload
    def __getitem__(self, index: slice) -> Logprobs: ...

    def __getitem__(self, index: int | slice) -> TokenLogprob | Logprobs:
        if isinstance(index, int):
            place = range(len(self))[index]
            return next(iter(self[place : place + 1]))
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("only tokens that follow each other can be taken")
        found: list[Block] = []
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            block, end = self._blocks[number], self._ends[number]
            begin = end - len(block.token)
            found.append(block.part(start - begin, min(stop, end) - begin))
            start, number = end, number + 1
        return Logprobs(found)


NONE_TOLD = Logprobs()
"""Of no tokens."""


def logprobs_of(outputs: Outputs, index: int, steps: int, top: int) -> Logprobs:
    """The log-probabilities of the tokens of the row at `index`, with the `top` most probable alternatives.

    Args:
        outputs: of a tick, [K, B]
        index: which row
        steps: how many steps it took
        top: alternatives of each token
    """
    if not steps:
        return NONE_TOLD
    # Copies, so that nothing of the other rows is kept.
    return Logprobs(
        [
            Block(
                outputs.tokens[:steps, index].astype(np.int32),
                outputs.logprob[:steps, index].copy(),
                outputs.allowed[:steps, index].copy(),
                outputs.top_tokens[:steps, index, :top].astype(np.int32),
                outputs.top_logprob[:steps, index, :top].copy(),
            )
        ]
    )
