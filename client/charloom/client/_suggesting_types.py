"""Which texts a model finds probable: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedText:
    """How probable one of some texts is."""

    text: str

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
