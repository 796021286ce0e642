"""Probabilities of texts and tokens: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A token and its probability in the model's own distribution, before penalties, bias, temperature and filters."""

    symbol: bytes
    """UTF-8 of the character or word; in a byte model, the byte."""

    logprob: float
    """Natural logarithm of its probability."""

    @property
    def text(self) -> str:
        r"""The symbol as text; a byte that is no complete character is written like `\xc3`."""
        return self.symbol.decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob(Alternative):
    """A token that was generated or read, and the alternatives at its position."""

    top: tuple[Alternative, ...]
    """The `top_logprobs` most probable tokens at its position, the most probable first."""

    allowed_logprob: float = 0.0
    """In a call with a constraint: the natural logarithm of the probability that the constraint allowed at this
    position, after penalties, bias and temperature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How probable a text is."""

    logprobs: tuple[TokenLogprob, ...]
    """Log-probability of each token, in order."""

    nats_per_token: float
    """Mean of the negative log-probabilities; 0 for an empty text."""

    bits_per_character: float
    """The whole text's negative log-probability in bits, divided by its number of characters; a word that a word model
    lacks counts as one character."""

    perplexity: float
    """exp(nats_per_token)."""

    @property
    def logprob(self) -> float:
        """Natural logarithm of its probability, in nats: the sum over its tokens; 0 for an empty text."""
        return math.fsum(token.logprob for token in self.logprobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScore:
    """How probable one of many texts is as a whole."""

    text: str
    """The text, as it was given."""

    tokens: int
    """How many tokens it has."""

    logprob: float
    """Natural logarithm of its probability: the sum over its tokens."""

    nats_per_token: float
    """As in `Score`."""

    bits_per_character: float
    """As in `Score`."""

    perplexity: float
    """As in `Score`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peek:
    """The tokens that would come next, with their distributions."""

    text: str
    """The text that `generate` would have generated with these options."""

    distributions: tuple[TokenLogprob, ...]
    """The distribution at each position of the text: the model's own, before penalties, bias, temperature and filters.
    """

    position: int
    """Tokens fed and generated since the state was zero, before the text."""

    allowed_logprob: float | None = None
    """As in `Result`; `None` without a constraint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """The log-probabilities of a text that the model read."""

    logprobs: tuple[TokenLogprob, ...]
    """Log-probability of each token of the text."""

    position: int
    """Tokens fed and generated since the state was zero, after the text."""

    @property
    def surprisals(self) -> tuple[float, ...]:
        """How surprising each token was, in nats: its negative log-probability."""
        return tuple(0.0 - token.logprob for token in self.logprobs)
