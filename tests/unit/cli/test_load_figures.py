"""From what calls saw to figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from charloom.cli.serving.load import Seen, Span, milliseconds, percentile, summary


def span(seconds: float, cpu: float) -> Span:
    found = Span()
    found.seconds, found.cpu = seconds, cpu
    return found


def seen(began: float, *gaps: float, characters: int = 10) -> Seen:
    """A call whose messages came with these gaps, the first one after `began`."""
    return Seen(began, list(itertools.accumulate(gaps, initial=began))[1:], characters)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 1000])
def test_percentiles_are_those_of_numpy(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    for percent in (0, 1, 50, 99, 100):
        assert percentile(values.tolist(), percent) == pytest.approx(np.percentile(values, percent))


def test_a_percentile_of_few_values_is_not_beyond_the_largest() -> None:
    assert milliseconds([0.001, 0.002]) == {"p50": 1.5, "p99": 1.99}
    assert milliseconds([]) is None


def test_rates_are_per_second_of_the_load() -> None:
    found = summary([seen(5.0, 0.1, 0.2), seen(6.0, 0.3, characters=30)], span(4.0, 1.0))
    assert found["seconds"] == 4.0
    assert found["chars_per_s"] == 10
    assert found["calls_per_s"] == 0.5
    assert found["messages_per_s"] == 1  # 3 / 4, rounded
    assert found["client_cpu"] == 0.25
    assert found["ttfc_ms"] == {"p50": 200.0, "p99": pytest.approx(298.0)}
    assert found["gap_ms"] == {"p50": 200.0, "p99": 200.0}


def test_refusals_are_apart() -> None:
    refused = [Seen(0.0, refused_after=after) for after in (0.001, 0.003)]
    found = summary([*refused, seen(0.0, 0.1)], span(1.0, 0.0))
    assert found["refused"] == 2
    assert found["refusal_ms"] == {"p50": 2.0, "p99": 2.98}
    assert found["calls_per_s"] == 1
    assert found["ttfc_ms"] == {"p50": 100.0, "p99": 100.0}


def test_nothing_but_refusals_is_no_error() -> None:
    found = summary([Seen(0.0, refused_after=0.001)], span(1.0, 0.0))
    assert (found["chars_per_s"], found["ttfc_ms"], found["gap_ms"]) == (0, None, None)


def test_fairness_is_of_each_stream_by_itself() -> None:
    slow_but_even = seen(0.0, *[2.0] * 12)
    with_a_pause = seen(0.0, 0.1, *[1.0] * 10, 5.0)
    short = seen(0.0, 0.1, 1.0, 100.0)
    found = summary([slow_but_even, with_a_pause, short], span(1.0, 0.0))
    assert found["gap_max_over_median"] == {"p50": 3.0, "max": 5.0}
    assert summary([short], span(1.0, 0.0))["gap_max_over_median"] is None


def test_with_probes_the_first_character_is_theirs_and_the_gaps_are_the_others() -> None:
    found = summary([seen(0.0, 9.0, 1.0)], span(1.0, 0.0), probes=[seen(0.0, 0.002, 0.5), seen(0.0, 0.004, 0.5)])
    assert found["ttfc_ms"]["p50"] == 3.0
    assert found["gap_ms"]["p50"] == 1000.0
    assert found["probes"] == 2
    assert found["chars_per_s"] == 30
    assert "calls_per_s" not in found


def test_messages_are_counted_with_text_or_without_and_the_way_is_what_the_server_does_not_say() -> None:
    calls = [
        Seen(1.0, [1.010], 10, messages=3, server_first=0.008),
        Seen(2.0, [2.020], 10, messages=2, server_first=0.016),
    ]
    found = summary([*calls, Seen(0.0, refused_after=0.001)], span(1.0, 0.0))
    assert found["messages_per_call"] == 2.5
    assert found["way_ms"] == {"p50": 3.0, "p99": pytest.approx(3.98)}
