"""The masks of dropout: their share, their scale, and where they come from."""

from __future__ import annotations

import pytest
import torch

from charloom.network.dropout import dropout, keep_mask

CPU = torch.device("cpu")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.05, 0.3, 0.5, 0.9, 0.9999])
def test_so_many_values_are_dropped(share: float) -> None:
    torch.manual_seed(1)
    count = 1_000_003
    mask = keep_mask(torch.Size((count,)), share, CPU)
    assert mask.dtype == torch.bool
    deviation = (count * share * (1 - share)) ** 0.5
    assert abs(int((~mask).sum()) - count * share) <= 5 * deviation + count / 2**17  # the share's rounding


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_share_next_to_none_or_all_stays_finite(share: float) -> None:
    torch.manual_seed(1)
    assert torch.isfinite(dropout(torch.ones(100_000), share, True)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_is_kept_is_scaled_and_passes_its_gradient(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(1)
    x = torch.ones(50, 7, 11, dtype=dtype, requires_grad=True)
    y = dropout(x, share, True)
    assert y.dtype == dtype
    assert set(y.detach().flatten().tolist()) == {0.0, float(torch.tensor(1 / (1 - share), dtype=dtype))}
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_neighbours_are_independent() -> None:
    """Four values share one random number: any two of them, and the same place of two numbers, agree by chance."""
    torch.manual_seed(1)
    mask = keep_mask(torch.Size((400_000,)), 0.5, CPU).float() * 2 - 1
    for distance in range(1, 9):
        correlation = float((mask[distance:] * mask[:-distance]).mean())
        assert abs(correlation) < 5 / 400_000**0.5, distance


def test_the_seed_decides_and_nothing_else() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask(torch.Size((3, 1001)), 0.5, CPU))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(10)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
