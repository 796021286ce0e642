"""Plots of the results: throughput over streams, and the cost of a character over the batch.

    python -m benchmarks.plots [--results benchmarks/results/serving.json] [--out docs/plots]

Reads what `benchmarks.serving` printed. Needs matplotlib. The same results give the same files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from charloom.lab.pictures import COLOURS, GREY, picture

ROOT = Path(__file__).resolve().parents[1]
OURS, OTHER = COLOURS[3], COLOURS[0]


def plot_throughput(found: dict[str, Any], file: Path) -> None:
    """Characters per second over streams, with what the bare step does, as far as it was measured."""
    ours, fp32 = _points(found["streams"]), _points(found.get("fp32", {}).get("streams", {}))
    obvious = _points({count: load for count, load in found["obvious"].items() if count.isdigit()})
    top, left = found["ceiling_chars_per_s"], min([*ours, *fp32, *obvious], default=1)
    with _axes(file, "Throughput over concurrent streams", found["hardware"]) as axes:
        _logarithmic(axes, list(ours))
        if ours:
            axes.plot(list(ours), list(ours.values()), "o-", color=OURS)
            _label(axes, "Charloom, int8", list(ours.items())[-1], OURS, (0, 14), ha="right")
        _ceiling(axes, "bare int8 step, all cores", top, left, OURS)
        if fp32:
            axes.plot(list(fp32), list(fp32.values()), "s", color=OTHER)
            _label(axes, "Charloom, fp32", list(fp32.items())[-1], OTHER, (8, -4))
            _ceiling(axes, "bare fp32 step, all cores", found["fp32"]["ceiling_chars_per_s"], left, OTHER)
        if obvious:
            axes.plot(list(obvious), list(obvious.values()), "x", color=GREY)
            _label(axes, "obvious server, fp32", list(obvious.items())[-1], GREY, (-8, 4), ha="right")
        axes.set(xlabel="concurrent streams", ylabel="characters/s, all streams", ylim=(0, 1.12 * top))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def plot_step_cost(found: dict[str, Any], file: Path) -> None:
    """Microseconds of one core for a character, over the rows of a decoder call."""
    lines = (("step_us", OURS, "o-", "decoder, with loop and sampling"), ("bare_step_us", GREY, "o--", "bare step"))
    with _axes(file, "Cost of a character over the batch (int8)", found["hardware"]) as axes:
        for name, color, style, label in lines:
            cost = {int(rows): step / int(rows) for rows, step in found[name].items()}
            _logarithmic(axes, list(cost))
            axes.plot(list(cost), list(cost.values()), style, color=color, label=label)
        axes.legend(frameon=False)
        axes.set(xlabel="rows in one decoder call", ylabel="µs of one core per character", ylim=(0, None))


@contextmanager
def _axes(file: Path, title: str, hardware: str) -> Iterator[Axes]:
    """Empty axes with a title that names the machine; saved when filled."""
    with picture(file, 6.4, 4.0, form="svg", style={"font.size": 10}) as figure:
        axes = figure.subplots()
        axes.set_title(f"{title}\n2 x 512 LSTM, 96 symbols; {hardware}", loc="left", fontsize=10)
        yield axes


def _points(loads: dict[str, Any]) -> dict[int, float]:
    """Characters per second by the number of streams."""
    return {int(count): load["chars_per_s"] for count, load in loads.items()}


def _label(
    axes: Axes, text: str, point: tuple[float, float], color: str, offset: tuple[int, int], ha: str = "left"
) -> None:
    axes.annotate(text, point, xytext=offset, textcoords="offset points", color=color, ha=ha)


def _ceiling(axes: Axes, text: str, height: float, left: float, color: str) -> None:
    axes.axhline(height, color=color, linestyle="--", linewidth=1)
    _label(axes, text, (left, height), color, (0, 4))


def _logarithmic(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def main() -> int:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/serving.json", help="what to draw")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/plots", help="folder to write to")
    arguments = parser.parse_args()
    found = json.loads(arguments.results.read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    drawings = [(plot_throughput, "throughput.svg")]
    if "step_us" in found:
        drawings.append((plot_step_cost, "step-cost.svg"))
    for draw, name in drawings:
        draw(found, arguments.out / name)
        print(arguments.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
