"""Choosing the next token: the sampling contract, stated in torch.

Written in the subset that TorchScript compiles, because the exported decoder runs `penalise`, `scale`, `allow` and
`pick`; `choose` is for the plain generator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalise(logits: Tensor, counts: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """Make tokens that have occurred less probable, or more: repetition, frequency and presence penalty.

    Args:
        logits: [B, V]
        counts: [B, V], float32, how often each token has occurred
        repetition: [B], divides positive and multiplies negative logits of tokens that have occurred; 1 = off
        presence: [B], subtracted from the logits of tokens that have occurred
        frequency: [B], subtracted from the logits of tokens, times how often they have occurred

    Returns:
        [B, V]
    """
    occurred = counts > 0
    factor = repetition.unsqueeze(1)
    logits = torch.where(occurred, torch.where(logits > 0, logits / factor, logits * factor), logits)
    return logits - (counts * frequency.unsqueeze(1) + occurred.float() * presence.unsqueeze(1))


def apply_filters(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Forbid the tokens outside top_k, then top_p, then min_p, each row by its own parameters.

    Every filter keeps the most probable tokens up to some rank, ties by lower id, and always the first, so together
    they keep a prefix of the ranking. top_p takes the smallest prefix that reaches the probability, renormalised after
    top_k.

    Args:
        logits: [B, V], after bias and temperature
        top_k: [B], int64, 0 = off
        top_p: [B], float32, 1 = off
        min_p: [B], float32, 0 = off

    Returns:
        [B, V], minus infinity where a token is forbidden, unchanged elsewhere.
    """
    size = logits.size(1)
    ranked, order = torch.sort(logits, dim=1, descending=True, stable=True)
    probability = torch.softmax(ranked, dim=1)
    rank = torch.arange(size, device=logits.device).unsqueeze(0)
    limit = torch.where(top_k > 0, top_k, torch.full_like(top_k, size)).unsqueeze(1)
    probability = torch.where(rank < limit, probability, torch.zeros_like(probability))
    before = torch.cumsum(probability, dim=1) - probability
    in_top_p = (before < top_p.unsqueeze(1) * probability.sum(dim=1, keepdim=True)) | (top_p >= 1.0).unsqueeze(1)
    in_min_p = probability >= min_p.unsqueeze(1) * probability[:, :1]
    kept = ((rank < limit) & in_top_p & in_min_p) | (rank == 0)
    mask = torch.zeros_like(kept).scatter(1, order, kept)
    return logits.masked_fill(~mask, float("-inf"))


def allow(scaled: Tensor, allowed: Tensor, may_end: Tensor, greedy: Tensor) -> tuple[Tensor, Tensor]:
    """What a constraint makes of the logits: minus infinity for tokens that are not allowed.

    Where a text may end, all that is not allowed together means the end, and stands in the place of the first token
    that is not allowed. A greedy row ends where the end is as probable as the best token. Nothing changes in a row that
    allows all.

    Args:
        scaled: [B, V], after bias and temperature, the largest of each row being 0
        allowed: [B, V], bool
        may_end: [B], bool, whether the text of the row may end here
        greedy: [B], bool

    Returns:
        [B, V], the largest of each row being 0; and [B], the natural logarithm of the probability that was left.
    """
    nothing = torch.full_like(scaled, float("-inf"))
    kept, others = torch.where(allowed, scaled, nothing), torch.where(allowed, nothing, scaled)
    end = torch.where(may_end, torch.logsumexp(others, dim=1), nothing[:, 0])
    left = torch.logsumexp(kept, dim=1) - torch.logsumexp(scaled, dim=1)
    left = torch.where(may_end, torch.zeros_like(left), left)
    ends = greedy & may_end & (end >= kept.amax(dim=1))
    kept = torch.where(ends.unsqueeze(1), nothing, kept)
    first = (~allowed).int().argmax(dim=1, keepdim=True)
    at_end = torch.zeros_like(allowed).scatter(1, first, may_end.unsqueeze(1)) & ~allowed
    kept = torch.where(at_end, end.unsqueeze(1), kept)
    return kept - kept.amax(dim=1, keepdim=True), left


def choose(
    logits: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    bias: Tensor,
    filtered: bool,
) -> Tensor:
    """Choose a token for each row: bias, temperature, filters, then inverse-CDF with the row's uniform number.

    The first token whose cumulative weight exceeds `uniform * total` is taken: it always has weight, so a forbidden
    token is never chosen. Temperature 0 takes the largest biased logit (the lowest id among equals).

    Args:
        logits: [B, V]
        uniform: [B], in [0, 1 - 2^-23]
        temperature: [B], >= 0
        top_k, top_p, min_p: [B] each, see `apply_filters`
        bias: [B, V], added to the logits
        filtered: whether any row filters; when false the filters are skipped, with the same result

    Returns:
        [B], int64
    """
    return pick(scale(logits + bias, temperature), uniform, temperature, top_k, top_p, min_p, filtered)


def scale(biased: Tensor, temperature: Tensor) -> Tensor:
    """The logits [B, V] divided by the temperature [B], where it is not 0; the largest of each row is 0."""
    divisor = torch.where(temperature == 0, torch.ones_like(temperature), temperature).unsqueeze(1)
    # The largest is subtracted first: a tiny temperature then gives minus infinity, never infinity.
    return (biased - biased.amax(dim=1, keepdim=True)) / divisor


def pick(
    scaled: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    filtered: bool,
) -> Tensor:
    """The part of `choose` after bias, temperature and constraint.

    Args:
        scaled: [B, V], of `scale` or `allow`

    Returns:
        [B], int64
    """
    allowed = apply_filters(scaled, top_k, top_p, min_p) if filtered else scaled
    cumulative = torch.cumsum(torch.exp(allowed), dim=1)
    threshold = uniform.unsqueeze(1) * cumulative[:, -1:]
    sampled = (cumulative <= threshold).sum(dim=1)
    return torch.where(temperature == 0, scaled.argmax(dim=1), sampled)
