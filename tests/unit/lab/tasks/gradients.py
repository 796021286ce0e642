"""The gradient of a network against the loss on both sides, along a random direction of each parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from charloom.lab.tasks.symbols import PADDING


def assert_gradients(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """For a model in float64; the embedding of padding is not trained."""
    loss().backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        if name.endswith("embedding.weight"):
            direction[PADDING] = 0
        sides = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += sign * direction
                sides.append(float(loss()))
                parameter -= sign * direction
        expected = (sides[0] - sides[1]) / 2e-6
        assert parameter.grad is not None
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name
