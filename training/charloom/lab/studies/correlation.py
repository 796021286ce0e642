"""Which of many units follows a feature, and whether that is more than chance.

The unit is the one with the largest correlation, Pearson's (with a feature of two values that is the point-biserial
one), on one part of a text. The largest of many is large by chance too, and states and features both drift slowly. So
the unit is judged by its correlation on a part that was not used to find it, and against what the largest correlation
over *all* units is when the feature is shifted along the text by random amounts: a shifted feature goes up and down as
before, but no longer belongs to these characters.

Axis letters: T time, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Follower:
    """The unit that follows a feature best."""

    unit: int
    found: float
    """its correlation on the part where it was looked for"""
    confirmed: float
    """its correlation on the other part"""
    chance: float
    """95 % of the shifted features have no larger one, over all units of the other part"""

    @property
    def holds(self) -> bool:
        """Whether the other part has the correlation too, in the same direction and more than by chance."""
        return self.found * self.confirmed > 0 and abs(self.confirmed) > self.chance


def correlations(units: Floats, feature: Floats) -> Floats:
    """Of each unit [T, U] with the feature [T]; 0 where either does not change."""
    return np.asarray(_standard(feature[:, None])[:, 0] @ _standard(units) / len(feature))


def follower(units: Floats, feature: Floats, random: np.random.Generator, shifts: int = 200) -> Follower:
    """The best unit of the first half of [T, U], confirmed on the second."""
    half = len(feature) // 2
    first = correlations(units[:half], feature[:half])
    unit = int(np.abs(first).argmax())
    rest = feature[half:]
    second = correlations(units[half:], rest)
    away = max(1, min(200, len(rest) // 10))  # not so little that it is nearly the feature itself
    amounts = random.integers(away, len(rest) - away, size=shifts)
    shifted = _standard(np.stack([np.roll(rest, amount) for amount in amounts], axis=1))
    largest = np.abs(shifted.T @ _standard(units[half:]) / len(rest)).max(axis=1)
    return Follower(unit, float(first[unit]), float(second[unit]), float(np.quantile(largest, 0.95)))


def _standard(columns: Floats) -> Floats:
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9))
