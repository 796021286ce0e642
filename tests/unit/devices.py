"""On which devices a test runs."""

from __future__ import annotations

import pytest
import torch

HAS_CUDA = torch.cuda.is_available()
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not HAS_CUDA, reason="there is no CUDA device")]
)
DEVICES = ["cpu", *([CUDA] if HAS_CUDA else [])]
"""For what is the same on each."""
