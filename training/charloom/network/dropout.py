"""Which values are kept at random: the masks of dropout, weight drop and zoneout.

torch's own masks cost a CPU some 12 ns a value, which was a seventh of a training step; four values can share 64 random
bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEVELS = 1 << 16
"""A share is rounded to one in so many."""


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a share of the values and scale the others, so that the expectation stays (Srivastava et al., 2014)."""
    if not training or share == 0:
        return x
    if x.device.type != "cpu":
        return nn.functional.dropout(x, share)
    return x * keep_mask(x.shape, share, x.device).to(x.dtype).mul_(LEVELS / (LEVELS - _dropped(share)))


def keep_mask(shape: torch.Size, share: float, device: torch.device) -> Tensor:
    """A mask of this shape: each value is False with probability `share`, below 1, and else True."""
    if device.type != "cpu":
        return torch.rand(shape, device=device) >= share
    count = math.prod(shape)
    bits = torch.empty(math.ceil(count / 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(shape) >= _dropped(share) - LEVELS // 2


def _dropped(share: float) -> int:
    """How many of LEVELS equal parts are dropped; never all."""
    return min(round(share * LEVELS), LEVELS - 1)
