"""The setting that says which parts of the cores models get."""

from __future__ import annotations

import math

LOWEST, HIGHEST = 0.1, 10.0
"""A model that is hardly ever given a turn would look like one whose decoder is stuck."""


def weights_of(text: str) -> dict[str, float]:
    """Weights by the names of models, from "shakespeare=2,other=0.5".

    Raises:
        ValueError: the text is something else, or a weight is out of range.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (name and LOWEST <= weight <= HIGHEST):
            raise ValueError(
                f"{part!r} is not NAME=WEIGHT with a weight from {LOWEST:g} to {HIGHEST:g}, such as shakespeare=2"
            )
        if name in weights:
            raise ValueError(f"{name!r} has two weights")
        weights[name] = weight
    return weights
