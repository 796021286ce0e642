from __future__ import annotations

import pytest

from charloom.client import Histogram

GIVEN = Histogram(bounds=(1.0, 2.0, 4.0), counts=(10, 0, 10, 0), sum=40.0)


@pytest.mark.parametrize(("part", "value"), [(0.25, 0.5), (0.5, 1.0), (0.75, 3.0), (1.0, 4.0)])
def test_values_are_spread_evenly_within_a_range(part: float, value: float) -> None:
    assert GIVEN.quantile(part) == pytest.approx(value)


def test_what_is_above_all_bounds_is_at_least_the_highest() -> None:
    assert Histogram(bounds=(1.0, 2.0), counts=(0, 0, 3), sum=30.0).quantile(0.5) == 2.0


def test_where_there_was_nothing_there_is_nothing_to_tell() -> None:
    empty = Histogram(bounds=(1.0,), counts=(0, 0), sum=0.0)
    assert (empty.count, empty.mean, empty.quantile(0.5)) == (0, None, None)
    assert Histogram().quantile(0.99) is None


def test_what_came_since_an_earlier_one() -> None:
    later = Histogram(bounds=GIVEN.bounds, counts=(10, 4, 10, 1), sum=52.0)
    assert later.since(GIVEN) == Histogram(bounds=GIVEN.bounds, counts=(0, 4, 0, 1), sum=12.0)
    assert later.since(Histogram()) is later
    assert GIVEN.mean == 2.0
