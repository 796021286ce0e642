from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.plots import plot_step_cost, plot_throughput

LOADS = {"1": {"chars_per_s": 9000}, "64": {"chars_per_s": 62000}}
RESULTS: dict[str, Any] = {
    "ceiling_chars_per_s": 98000,
    "streams": LOADS,
    "fp32": {"ceiling_chars_per_s": 50000, "streams": {"64": {"chars_per_s": 40000}}},
    "obvious": {"64": {"chars_per_s": 1200}, "64 short": {"chars_per_s": 1000}},
    "step_us": {"1": 100.0, "256": 6400.0},
    "bare_step_us": {"1": 80.0, "256": 5000.0},
    "hardware": "a machine, 2 cores",
}


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (plot_throughput, ["Charloom, int8", "Charloom, fp32", "bare int8 step", "obvious server", "characters/s"]),
        (plot_step_cost, ["decoder, with loop", "bare step", "rows in one decoder call", "µs of one core"]),
    ],
)
def test_a_plot_names_its_lines_and_axes_and_the_machine(draw: Any, words: list[str], tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert [word for word in [*words, "a machine, 2 cores"] if word not in text] == []
    draw(RESULTS, tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text("utf-8") == text


def test_results_without_fp32_are_drawn_without(tmp_path: Path) -> None:
    plot_throughput({name: value for name, value in RESULTS.items() if name != "fp32"}, tmp_path / "a.svg")
    assert "Charloom, fp32" not in (tmp_path / "a.svg").read_text("utf-8")


def test_what_was_not_reached_is_not_drawn(tmp_path: Path) -> None:
    nothing = {"streams": {}, "obvious": {}, "fp32": {"ceiling_chars_per_s": 50000, "streams": {}}}
    plot_throughput(RESULTS | nothing, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert "bare int8 step" in text
    assert not any(name in text for name in ("Charloom,", "obvious server"))
