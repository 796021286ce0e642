"""Batches of texts of about the same length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NOISE = 0.05
"""How far a length may be off when texts are sorted, as a share of it, so that a text has new neighbours each epoch."""

Batch = npt.NDArray[np.int64]
"""Numbers of the texts of one batch, [B]."""


def buckets(lengths: Sequence[int], batch_size: int, random: np.random.Generator | None = None) -> list[Batch]:
    """Every text once, in batches of neighbours by length; in random order with `random`."""
    noise = 1.0 if random is None else random.uniform(1 - NOISE, 1 + NOISE, len(lengths))
    order = np.argsort(np.asarray(lengths) * noise, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if random is not None:
        random.shuffle(batches)
    return batches


def padding_share(lengths: Sequence[int], batches: Sequence[Batch]) -> float:
    """Share of all places in these batches that are padding."""
    taken = np.asarray(lengths)
    places = sum(len(batch) * int(taken[batch].max()) for batch in batches)
    return 1 - sum(int(taken[batch].sum()) for batch in batches) / places
