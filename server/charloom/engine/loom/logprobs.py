"""How probable the tokens of a text were, and which others were: kept as arrays, since there may be a million of them.

Axis letters: K steps, B rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from charloom.engine.decoding.decoder import Floats, Outputs


class Alternatives(Sequence[tuple[int, float]]):
    """The most probable tokens at a position with their log-probabilities, the most probable first.

    Args:
        tokens: [K, top], of some positions
        logprobs: [K, top], theirs
        place: which of the positions
    """

    __slots__ = ("_logprobs", "_place", "_tokens")

    def __init__(self, tokens: npt.NDArray[np.int32], logprobs: Floats, place: int) -> None:
        self._tokens = tokens
        self._logprobs = logprobs
        self._place = place

    def by_token(self, size: int) -> Floats:
        """The log-probability of each token, [size]; minus infinity of those that are not told."""
        found = np.full(size, -np.inf, np.float32)
        found[self._tokens[self._place]] = self._logprobs[self._place]
        return found

    def __len__(self) -> int:
        return int(self._tokens.shape[1])

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self._tokens[self._place].tolist(), self._logprobs[self._place].tolist(), strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[int, float]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, float]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, float] | Sequence[tuple[int, float]]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class TokenLogprob(NamedTuple):
    """How probable a token was, and the most probable tokens at its position."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]
    """Token and log-probability, the most probable first."""
    allowed: float = 0.0
    """Natural logarithm of the probability that the call's constraint left at its position."""


def logprobs_of(outputs: Outputs, index: int, steps: int, top: int) -> list[TokenLogprob]:
    """The log-probabilities of the tokens of the row at `index`, with the `top` most probable alternatives.

    Args:
        outputs: of a tick, [K, B]
        index: which row
        steps: how many steps it took
        top: alternatives of each token
    """
    arrays = (outputs.tokens, outputs.logprob, outputs.allowed)
    chosen = zip(*(array[:steps, index].tolist() for array in arrays), strict=True)
    if not top:
        return [TokenLogprob(token, logprob, (), allowed) for token, logprob, allowed in chosen]
    # Copies, so that nothing of the other rows is kept.
    tokens = outputs.top_tokens[:steps, index, :top].astype(np.int32)
    logprobs = outputs.top_logprob[:steps, index, :top].copy()
    return [
        TokenLogprob(token, logprob, Alternatives(tokens, logprobs, place), allowed)
        for place, (token, logprob, allowed) in enumerate(chosen)
    ]
