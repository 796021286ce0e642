from __future__ import annotations

import itertools
import math

import pytest

from charloom.training.config import TrainingConfig
from charloom.training.schedules import Plateau, learning_rate

PEAK = 2e-3


def config(**changes: object) -> TrainingConfig:
    given = {"learning_rate": PEAK, "warmup_steps": 10, "final_learning_rate_ratio": 0.1}
    return TrainingConfig.model_validate(given | changes)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    settings = config(schedule=schedule)
    rates = [learning_rate(step, 100, settings, Plateau()) for step in range(11)]
    assert rates[:10] == pytest.approx([PEAK * (step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(PEAK)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(0, 100, config(warmup_steps=0), Plateau()) == pytest.approx(PEAK)


def test_cosine_ends_at_the_given_share_of_the_peak_and_stays_there() -> None:
    for step in (110, 111, 1000):
        assert learning_rate(step, 110, config(), Plateau()) == pytest.approx(0.1 * PEAK)


def test_cosine_is_half_way_in_the_middle_and_falls_all_the_way() -> None:
    rates = [learning_rate(step, 110, config(), Plateau()) for step in range(10, 111)]
    assert rates[50] == pytest.approx((PEAK + 0.1 * PEAK) / 2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_a_short_run_spends_no_more_than_a_tenth_on_its_warm_up() -> None:
    rates = [learning_rate(step, 50, config(), Plateau()) for step in range(50)]
    assert rates[:5] == pytest.approx([PEAK * (step + 1) / 5 for step in range(5)])
    assert max(rates) == pytest.approx(PEAK)
    assert learning_rate(0, 5, config(), Plateau()) == pytest.approx(PEAK)


def test_the_plateau_schedule_holds_the_rate_until_the_factor_falls() -> None:
    settings = config(schedule="plateau")
    assert learning_rate(90, 100, settings, Plateau()) == pytest.approx(PEAK)
    assert learning_rate(90, 100, settings, Plateau(factor=0.25)) == pytest.approx(PEAK / 4)


def test_the_plateau_factor_does_not_touch_cosine() -> None:
    assert learning_rate(10, 100, config(), Plateau(factor=0.25)) == pytest.approx(PEAK)


def test_a_run_that_is_made_longer_keeps_its_warm_up_with_the_plateau() -> None:
    settings, plateau = config(schedule="plateau", warmup_steps=200), Plateau(factor=0.25, warmup=15)
    assert learning_rate(7, 2250, settings, plateau) == pytest.approx(PEAK * 8 / 15)
    assert learning_rate(150, 2250, settings, plateau) == pytest.approx(PEAK / 4)
    cosine = config(warmup_steps=200)
    assert learning_rate(150, 2250, cosine, plateau) == learning_rate(150, 2250, cosine, Plateau())


def factors(losses: list[float], **changes: object) -> list[float]:
    settings, plateau, found = config(schedule="plateau", **changes), Plateau(), []
    for loss in losses:
        plateau.observe(loss, settings)
        found.append(plateau.factor)
    return found


def test_the_plateau_reduces_after_more_stale_evaluations_than_its_patience_and_counts_again() -> None:
    stale = [2.0, 2.0, 2.5, 2.0, 2.0, 2.0, 2.0]  # an equal loss is no progress
    assert factors(stale, plateau_patience=2, plateau_factor=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_progress_starts_the_patience_again() -> None:
    assert factors([2.0, 2.1, 2.1, 1.9, 2.0, 2.0, 2.0], plateau_patience=2) == [1, 1, 1, 1, 1, 1, 0.5]


def test_progress_is_measured_against_the_best_loss_not_the_last() -> None:
    assert factors([2.0, 3.0, 2.9, 2.8], plateau_patience=2) == [1, 1, 1, 0.5]


def test_a_loss_that_is_no_number_is_no_progress() -> None:
    assert factors([2.0, math.nan, 1.9], plateau_patience=0) == [1, 0.5, 0.5]


def test_the_plateau_factor_never_falls_below_the_final_share() -> None:
    assert factors([1.0] * 6, plateau_patience=0, plateau_factor=0.3) == pytest.approx([1, 0.3, 0.1, 0.1, 0.1, 0.1])
