from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charloom.engine.watching import calibration
from charloom.engine.watching.calibration import ACCURACY, LOOK_BACK, Calibration, lines_for


def calibrated(scores: object) -> Calibration:
    found = Calibration()
    for score in np.asarray(scores, np.float64).tolist():
        found.add(score)
    return found


def test_there_is_no_threshold_before_the_rate_can_be_told() -> None:
    found = calibrated(np.ones(99))
    assert found.threshold(rate=0.01, warm_up=10) is None
    found.add(1.0)
    assert found.threshold(rate=0.01, warm_up=10) is not None
    assert found.threshold(rate=0.01, warm_up=101) is None
    assert lines_for(0.001, 50) == 1000


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_as_many_lines_are_alerts_as_were_asked_for(rate: float) -> None:
    scores = np.random.default_rng(1).gamma(2.0, 1.5, size=6000)
    found, alerts = calibrated(scores[:2000]), 0
    for score in scores[2000:].tolist():
        threshold = found.threshold(rate, 100)
        assert threshold is not None
        alerts += score > threshold
        found.add(score)
    # Three standard deviations of as many coins, and what the sketch is allowed to be off.
    assert 0.7 * rate - 3 * (rate / 4000) ** 0.5 < alerts / 4000 < rate + 3 * (rate / 4000) ** 0.5


@pytest.mark.parametrize(("known", "rate", "alerts"), [(189, 0.01, 2), (99, 0.1, 10), (60, 0.02, 2), (129, 0.3, 39)])
def test_the_line_that_comes_counts_as_one_of_those_that_are_known(known: int, rate: float, alerts: int) -> None:
    """Of `known` + 1 lines any may be the last; as many of them are alerts as was asked for, rounded up."""
    scores = 1.05 ** np.arange(known) * 0.002
    threshold = calibrated(scores).threshold(rate, 1)
    assert threshold is not None
    assert (scores > threshold).sum() + 1 == alerts
    assert alerts - 1 < rate * (known + 1) <= alerts


def test_a_line_that_comes_again_and_again_is_no_alert() -> None:
    found = calibrated([0.7] * 500)
    threshold = found.threshold(0.01, 100)
    assert threshold is not None
    assert 0.7 < threshold < 0.7 * (1 + ACCURACY) ** 2


def test_of_lines_that_come_again_none_is_always_an_alert() -> None:
    for score in np.geomspace(2.0, 2.0 * (1 + 2 * ACCURACY), 1000):  # at every place of a bin
        threshold = calibrated([score] * 20).threshold(0.05, 1)
        assert threshold is not None
        assert score <= threshold


def test_drift_is_told_where_lines_are_no_more_what_they_were() -> None:
    chance = np.random.default_rng(2)
    found = calibrated(chance.gamma(2.0, 1.0, size=1000))
    assert not found.drifting
    for score in (4.0 + chance.gamma(2.0, 1.0, size=3 * LOOK_BACK)).tolist():
        found.add(score)
    assert found.drifting


def test_a_source_that_always_says_the_same_does_not_drift() -> None:
    assert not calibrated([0.5] * 1000).drifting


def test_what_was_long_ago_counts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MEMORY", 400)
    found = calibrated([9.0] * 400 + [1.0] * 4000)
    threshold = found.threshold(0.05, 100)
    assert threshold is not None
    assert threshold < 1.1
    assert found.lines == 4400


@given(st.lists(st.floats(0, 1e6), max_size=60), st.lists(st.floats(0, 50), max_size=5))
def test_a_calibration_that_was_kept_goes_on_as_if_it_had_not_been(before: list[float], after: list[float]) -> None:
    one = calibrated(before)
    other = Calibration.from_bytes(one.to_bytes())
    for score in after:
        one.add(score)
        other.add(score)
    assert other.to_bytes() == one.to_bytes()
    assert (other.lines, other.drifting) == (one.lines, one.drifting)
    assert other.threshold(0.1, 1) == one.threshold(0.1, 1)


def test_an_idle_source_costs_some_hundred_bytes() -> None:
    scores = np.random.default_rng(3).gamma(2.0, 1.5, size=5000)
    assert len(calibrated(scores).to_bytes()) < 1200


@pytest.mark.parametrize("data", [b"", b"\x01", bytes(30), b"\x02" + bytes(18), b"\x01" + bytes(16) + b"\x01\x00"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration.from_bytes(data)


def test_impossible_numbers_are_refused() -> None:
    data = bytearray(calibrated([1.0, 2.0]).to_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    with pytest.raises(ValueError, match="impossible"):
        Calibration.from_bytes(bytes(data))
