"""What a request may ask of sampling, and the choice of one token in its plainest form.

Knows: logits, one uniform number, parameters. Does not know: batches, state, how the decoder graphs do the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from charloom.engine.decoder import Floats
from charloom.engine.errors import InvalidRequest

LOWEST, HIGHEST_TEMPERATURE = 1e-30, 100.0
"""Below the lowest, float32 loses its digits."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: temperature, then top_k, top_p and min_p.

    Raises:
        InvalidRequest: a value is out of range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token."""
    top_k: int = 0
    """Only the k most probable tokens; 0 is off."""
    top_p: float = 1.0
    """Only the most probable tokens that together reach this probability; 1 is off."""
    min_p: float = 0.0
    """Only tokens at least this probable in relation to the most probable one; 0 is off."""

    def __post_init__(self) -> None:
        heat = self.temperature
        allowed = heat == 0 or LOWEST <= heat <= HIGHEST_TEMPERATURE
        _check("temperature", heat, allowed, "from 0 to 100 (0 is greedy; otherwise at least 1e-30)")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check("top_p", self.top_p, LOWEST <= self.top_p <= 1, "above 0 (at least 1e-30), up to 1 (off)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 (off) to 1")


def _check(field: str, value: float, good: bool, wanted: str) -> None:
    if not math.isfinite(value) or not good:
        raise InvalidRequest(f"sampling.{field}", f"{value:g} is not allowed; give a number {wanted}")


def choose(logits: Floats, uniform: float, sampling: Sampling, bias: Floats) -> int:
    """The token that `uniform` picks: bias, temperature, top_k, top_p, min_p, then inverse-CDF.

    Args:
        logits: [V]
        uniform: in [0, 1 - 2^-23]
        sampling: the parameters
        bias: [V], minus infinity forbids
    """
    biased = logits + bias
    if sampling.temperature == 0:
        return int(biased.argmax())
    scaled = (biased - biased.max()) / np.float32(sampling.temperature)
    order = np.argsort(-scaled, kind="stable")
    probability = np.exp(scaled[order])
    probability /= probability.sum()
    keep = len(order)
    if sampling.top_k:
        keep = min(keep, sampling.top_k)
    probability[keep:] = 0
    if sampling.top_p < 1:
        before = np.cumsum(probability) - probability
        keep = min(keep, int((before < np.float32(sampling.top_p) * probability.sum()).sum()))
    if sampling.min_p > 0:
        keep = min(keep, int((probability >= np.float32(sampling.min_p) * probability[0]).sum()))
    weight = np.zeros_like(scaled)
    kept = order[: max(keep, 1)]
    weight[kept] = np.exp(scaled[kept])
    cumulative = np.cumsum(weight)
    return int((cumulative <= np.float32(uniform) * cumulative[-1]).sum())
