from __future__ import annotations

import numpy as np
import pytest

from charloom.lab.studies.correlation import correlations, follower


def noise(seed: int, steps: int = 2000, units: int = 60) -> np.ndarray:
    """Units that drift, as cell states do: each value is 0.9 of the last one and something new."""
    fresh = np.random.default_rng(seed).normal(size=(steps, units))
    for step in range(1, steps):
        fresh[step] += 0.9 * fresh[step - 1]
    return fresh


def line_positions(seed: int, steps: int = 2000) -> np.ndarray:
    random = np.random.default_rng(seed)
    lengths = random.integers(10, 60, size=steps)
    return np.concatenate([np.arange(length) for length in lengths])[:steps].astype(float)


def test_correlations_are_pearsons() -> None:
    units, feature = noise(0), line_positions(1)
    expected = [np.corrcoef(unit, feature)[0, 1] for unit in units.T]
    np.testing.assert_allclose(correlations(units, feature), expected, atol=1e-12)


def test_what_does_not_change_has_no_correlation() -> None:
    units = np.stack([np.ones(50), np.arange(50.0)], axis=1)
    assert correlations(units, np.arange(50.0)).tolist() == pytest.approx([0, 1])
    assert not correlations(units, np.full(50, 3.0)).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_unit_is_found_and_confirmed(sign: int) -> None:
    for seed in range(5):
        units, feature = noise(seed), line_positions(seed + 100)
        units[:, 37] += sign * 0.15 * feature
        best = follower(units, feature, np.random.default_rng(0))
        assert best.unit == 37
        assert best.holds
        assert sign * best.found > 0.5
        assert sign * best.confirmed > 0.5
        half = len(feature) // 2
        assert best.found == pytest.approx(np.corrcoef(units[:half, 37], feature[:half])[0, 1])
        assert best.confirmed == pytest.approx(np.corrcoef(units[half:, 37], feature[half:])[0, 1])


def test_nothing_is_found_in_noise() -> None:
    found = [follower(noise(seed), line_positions(seed + 50), np.random.default_rng(seed)) for seed in range(30)]
    assert sum(best.holds for best in found) <= 1
    # The best of sixty looks like something where it was looked for: that is what the other half is for.
    assert np.mean([abs(best.found) for best in found]) > 2 * np.mean([abs(best.confirmed) for best in found])


def test_chance_is_what_the_best_of_all_units_has_by_chance() -> None:
    """With a feature that has nothing to do with the units, 95 % of the best ones are below it."""
    above = []
    for seed in range(40):
        units, feature = noise(seed), line_positions(seed + 50)
        best = follower(units, feature, np.random.default_rng(seed))
        above.append(np.abs(correlations(units[1000:], feature[1000:])).max() > best.chance)
    assert sum(above) <= 7  # 2 are expected; more than 7 of 40 have a probability below 0.001


def test_a_unit_that_follows_on_the_first_half_alone_does_not_hold() -> None:
    units, feature = noise(3), line_positions(4)
    units[:1000, 5] = feature[:1000]
    best = follower(units, feature, np.random.default_rng(0))
    assert (best.unit, best.found) == (5, pytest.approx(1))
    assert not best.holds


def test_a_unit_that_turns_round_does_not_hold() -> None:
    units, feature = noise(3), line_positions(4)
    units[:1000, 5], units[1000:, 5] = feature[:1000], -feature[1000:]
    best = follower(units, feature, np.random.default_rng(0))
    assert best.confirmed == pytest.approx(-1)
    assert not best.holds
