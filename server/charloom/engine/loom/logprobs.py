"""Log-probabilities of a text's tokens and of the alternatives, kept as arrays, since there may be a million tokens.

Arrays take a fraction of the memory of Python objects; and the garbage collector, which holds the interpreter's lock
while it visits all container objects, has nothing to visit in them.

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
    """Natural logarithm of the probability that the call's constraint left at the token's position."""


class Block(NamedTuple):
    """Consecutive tokens, with `top` alternatives each."""

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
        """The tokens from index `start` up to, not including, `stop`; a view that shares memory with this block."""
        return Block._make(array[start:stop] for array in self)

    def each(self) -> Iterator[TokenLogprob]:
        """Iterate over the tokens."""
        token, logprob, allowed, *top = (array.tolist() for array in self)
        for one, own, left, others, theirs in zip(token, logprob, allowed, *top, strict=True):
            yield TokenLogprob(one, own, list(zip(others, theirs, strict=True)), left)


class Logprobs(Sequence[TokenLogprob]):
    """A sequence of tokens with their log-probabilities; each `TokenLogprob` is made on access.

    Args:
        blocks: the tokens in order; at least one in each block
    """

    __slots__ = ("_blocks", "_ends")

    def __init__(self, blocks: Sequence[Block] = ()) -> None:
        self._blocks = blocks
        self._ends = list(itertools.accumulate(len(block.token) for block in blocks))

    @classmethod
    def joined(cls, parts: Iterable[Logprobs]) -> Logprobs:
        """Concatenate `parts`; the result shares memory with them."""
        return cls([block for part in parts for block in part._blocks])

    def packed(self) -> Logprobs:
        """Copy into one block. All tokens must have the same number of alternatives."""
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
        """The log-probability of each token of the vocabulary at an index, [size]; -inf where it is not known."""
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
"""The log-probabilities of no tokens."""


def logprobs_of(outputs: Outputs, index: int, steps: int, top: int) -> Logprobs:
    """The log-probabilities of the tokens of the row at `index`, with the `top` most probable alternatives.

    Args:
        outputs: of a tick, [K, B]
        index: the row's index in the tick
        steps: how many steps it took
        top: number of alternatives for each token
    """
    if not steps:
        return NONE_TOLD
    # Copies, so that the arrays of the whole tick can be freed.
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
