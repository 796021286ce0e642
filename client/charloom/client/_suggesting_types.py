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
    """Natural logarithm of the probability that this text comes and, where it has ended, that its end comes then."""

    ended: bool
    """Whether it has reached its end, and not only `max_tokens`."""

    @property
    def probability(self) -> float:
        """E to the `logprob`."""
        return math.exp(self.logprob)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """The most probable texts that may come next."""

    texts: tuple[Suggestion, ...]
    """The most probable one first."""

    beam: int
    """How many texts were open at a time."""

    exact: bool
    """Whether no other text is more probable: none was given up that could have been."""

    position: int
    """Tokens fed and generated since the state was zero, before the texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedText:
    """How probable one of some texts is."""

    text: str
    """The text, as it was given."""

    logprob: float
    """Natural logarithm of its probability under the model: the sum over its tokens."""

    tokens: int
    """How many tokens it has."""

    probability: float
    """Its probability if the text that comes is one of the candidates: these sum to 1."""

    @property
    def logprob_per_token(self) -> float:
        """The mean over its tokens, which compares texts of different lengths."""
        return self.logprob / self.tokens
