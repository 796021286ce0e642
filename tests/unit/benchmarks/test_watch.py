from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.watch import _windows, area, interval, missed
from benchmarks.watch_logs import INJECTED, Line, read_log, with_injected
from benchmarks.watch_scores import RECENT, repeated, stretch
from charloom.engine.watching.surprise import surprise


def test_labels_and_sources_of_bgl_are_no_part_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "BGL_2k.log").write_text(
        "- 111 2005.06.03 R02-M1 2005-06-03-15 R02-M1 RAS KERNEL INFO cache parity error\n"
        "KERNDTLB 112 2005.06.03 R30-M0 2005-06-03-16 R30-M0 RAS KERNEL FATAL data TLB error\n"
    )
    normal, alert = read_log(tmp_path, "BGL")
    assert normal == Line("R02-M1", "RAS KERNEL INFO cache parity error", False)
    assert alert == Line("R30-M0", "RAS KERNEL FATAL data TLB error", True)


def test_lines_that_were_changed_are_the_alerts() -> None:
    lines = [Line("", f"block {number} was received by node", False) for number in range(200)]
    changed = with_injected(lines, [Line("", "no such file", False)], lines, seed=1)
    assert [line.alert for line in changed] == [one != other for one, other in zip(changed, lines, strict=True)]
    assert 0.8 * INJECTED < sum(line.alert for line in changed) <= INJECTED


def test_windows_hold_the_lines_up_to_each_one() -> None:
    counts = np.eye(12)
    windows = _windows(counts)
    assert windows[0].tolist() == counts[0].tolist()
    assert windows[11].tolist() == counts[2:12].sum(axis=0).tolist()


def test_an_interval_is_around_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.watch.SAMPLES", 100)
    chance = np.random.default_rng(0)
    alerts = np.arange(300) % 10 == 0
    scores = chance.normal(size=300) + alerts
    low, high = interval(alerts, scores)
    assert 0.5 < low < area(alerts, scores) < high < 1


def test_what_is_missed_is_told_by_kind_worst_first() -> None:
    lines = [Line("", "quiet", False)] * 4 + [
        Line("", "failed 7", True),
        Line("", "failed 8", True),
        Line("", "panic", True),
    ]
    found = missed(lines, np.array([1.0, 2.0, 3.0, 4.0, 2.5, 2.5, 9.0]))
    assert [(kind["text"], kind["lines"], kind["others_above"]) for kind in found] == [
        ("failed 0", 2, 0.5),
        ("panic", 1, pytest.approx(0.0)),
    ]


def test_the_stretch_of_four_is_the_score_of_the_server() -> None:
    chance = np.random.default_rng(1)
    for length in (1, 3, 4, 5, 60):
        nats = chance.exponential(size=length)
        assert stretch(nats, 4) == pytest.approx(surprise(nats))


def test_a_line_that_came_before_counts_less_the_longer_ago_it_was() -> None:
    lines = [Line("a", text, alert=False) for text in ("one", "one", *["two"] * RECENT, "one")]
    found = repeated(lines)
    assert found[:2].tolist() == [0, 1]
    assert found[-1] == pytest.approx(2 / 2, rel=0.02)
