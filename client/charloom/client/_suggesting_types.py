"""Which texts a model finds probable: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A text that may come next."""

    text: str
    """The text, without the prompt."""

    tokens: int
    """How many tokens it has."""

    logprob: float
    """Natural logarithm of the probability of this text and, if it has ended, of its end after it."""

    ended: bool
    """Whether it has reached its end; false if it was cut off at `max_tokens`."""

    @property
    def probability(self) -> float:
        """exp(logprob)."""
        return math.exp(self.logprob)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """The most probable texts that may come next."""

    texts: tuple[Suggestion, ...]
    """The most probable one first."""

    beam: int
    """How many unfinished texts were kept at a time."""

    exact: bool
    """Whether it is certain that no other text is more probable: the search dropped none that could have been."""

    position: int
    """Tokens fed and generated since the state was zero, before the texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedText:
    """How probable one of the candidates is."""

    text: str
    """The text, as it was given."""

    logprob: float
    """Natural logarithm of its probability under the model: the sum over its tokens."""

    tokens: int
    """How many tokens it has."""

    probability: float
    """Its probability given that one of the candidates comes next; these sum to 1."""

    @property
    def logprob_per_token(self) -> float:
        """Mean of `logprob` over its tokens, to compare texts of different lengths."""
        return self.logprob / self.tokens
