"""Cell states that follow the text: which unit tracks the position in a line, quotes, indentation, words.

After Karpathy, Johnson and Fei-Fei (2015, "Visualizing and Understanding Recurrent Networks"), with the unit confirmed
on text that was not used to find it (`correlation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import GREY, picture, shown
from charloom.lab.studies.correlation import Follower, follower
from charloom.lab.studies.features import FEATURES, Values, values
from charloom.lab.studies.reading import Reading
from charloom.lab.studies.study import Say, Settings, StudyError

COLUMNS = 80
"""Characters in a line of the pictured text."""


class CellSettings(Settings):
    """Settings of the cell study."""

    characters: int = Field(
        10_000, ge=200, description="characters to read: half of them to find units, half to confirm them"
    )
    shown_characters: int = Field(200, ge=20, le=500, description="characters in the picture")
    seed: int = Field(0, ge=0, description="of the shifts that chance is measured with")


@dataclass(frozen=True)
class Tracked:
    """The best unit of one feature, and both over the passage of the second half where the feature changes most."""

    feature: str
    layer: int
    """from 1"""
    unit: int
    """in its layer, from 0"""
    follower: Follower
    holds: bool
    passage: str
    """the shown characters"""
    cell: list[float]
    """cell state of the unit after each shown character"""
    values: list[float]
    """the feature at each shown character"""


@dataclass(frozen=True)
class CellResult:
    """All features of the study."""

    network: str
    characters: int
    searched: int
    """units, of all layers"""
    tracked: tuple[Tracked, ...]
    absent: dict[str, str]
    """what the text lacks, by the feature that was skipped for it"""


def measure(reading: Reading, settings: CellSettings, say: Say) -> CellResult:
    """Read the text and look for the best unit of each feature.

    Raises:
        StudyError: too little is read for the picture, which shows a part of the second half; or the text has none of
            the features.
    """
    needed = max(200, 2 * settings.shown_characters)
    if settings.characters < needed:
        raise StudyError(
            f"--characters {settings.characters} is less than twice --shown-characters {settings.shown_characters}; "
            f"give --characters {needed}, or lower --shown-characters"
        )
    if len(reading.tokens) < needed:
        raise StudyError(
            f"the text has {len(reading.tokens)} characters; give at least {needed}, or lower --shown-characters"
        )
    text, trace = reading.read(settings.characters)
    layers, steps, hidden = trace.memory.shape
    units = trace.memory.transpose(1, 0, 2).reshape(steps, layers * hidden).astype(np.float64)
    say(f"{reading.network}: read {steps:,} characters, looking through {units.shape[1]:,} units")
    half = steps // 2
    tracked, absent = list[Tracked](), dict[str, str]()
    for feature in FEATURES:
        found = values(feature, text)
        if found is None or not (np.ptp(found[:half]) and np.ptp(found[half:])):
            absent[feature.name] = f"the text has no {feature.absent}, or hardly any"
            say(f"{feature.name}: skipped, {absent[feature.name]}")
            continue
        best = follower(units, found, np.random.default_rng(settings.seed))
        layer, unit = divmod(best.unit, hidden)
        passage = _liveliest(text, found, half, settings.shown_characters)
        cell = [round(float(value), 4) for value in units[passage, best.unit]]
        shown_values = [float(value) for value in found[passage]]
        tracked.append(Tracked(feature.name, layer + 1, unit, best, best.holds, text[passage], cell, shown_values))
    if not tracked:
        raise StudyError(f"the text has none of the features ({', '.join(absent)}); give another one with --text")
    return CellResult(reading.network, steps, units.shape[1], tuple(tracked), absent)


def _liveliest(text: str, feature: Values, start: int, length: int) -> slice:
    """Of the passages behind `start` that begin with a line, the one in which the feature varies most."""
    last = len(text) - length
    begins = [at for at in range(start, last + 1) if at == start or text[at - 1] == "\n"]
    begin = max(begins, key=lambda at: float(feature[at : at + length].std()))
    return slice(begin, begin + length)


def tables(result: CellResult) -> list[Table]:
    """The best unit of each feature."""
    table = Table(
        title=f"Best of {result.searched:,} cell states over {result.characters:,} characters ({result.network})",
        box=SIMPLE_HEAD,
    )
    for heading in ("feature", "layer, unit", "found r", "confirmed", "chance", "follows it"):
        table.add_column(heading, justify="left" if heading == "feature" else "right")
    for tracked in result.tracked:
        best = tracked.follower
        place = f"{tracked.layer}, {tracked.unit}"
        figures = (f"{best.found:+.2f}", f"{best.confirmed:+.2f}", f"{best.chance:.2f}")
        table.add_row(tracked.feature, place, *figures, "yes" if tracked.holds else "no")
    table.caption = (
        "found on one half of the text, confirmed on the other; chance: 95 % of shifted features have no larger |r| "
        "with any unit"
    )
    for feature, reason in result.absent.items():
        table.caption += f"\n{feature}: skipped, {reason}"
    return [table]


def draw(result: CellResult, file: Path) -> None:
    """For each feature: the text with its best unit as the colour, and the trace with the feature as the colour."""
    with picture(file, 11.0, 2.3 * len(result.tracked) + 0.3) as figure:
        grid = figure.subplots(len(result.tracked), 2, squeeze=False, width_ratios=(1.15, 1))
        for (text, trace), tracked in zip(grid, result.tracked, strict=True):
            best = tracked.follower
            verdict = f"r {best.confirmed:+.2f} (chance {best.chance:.2f})" + (
                "" if tracked.holds else ", no more than chance"
            )
            text.set_title(
                f"{tracked.feature}: layer {tracked.layer}, unit {tracked.unit}, {verdict}", loc="left", fontsize=10
            )
            _draw_text(text, tracked.passage, tracked.cell)
            trace.plot(tracked.cell, color=GREY, linewidth=0.7)
            points = trace.scatter(
                range(len(tracked.cell)), tracked.cell, c=tracked.values, s=9, cmap="viridis", zorder=3
            )
            figure.colorbar(points, ax=trace, pad=0.01, label=tracked.feature)
            trace.set(ylabel="cell state", xlim=(0, len(tracked.cell)))
        grid[-1][1].set_xlabel("character")


def _draw_text(axes: Axes, passage: str, cell: list[float]) -> None:
    """The passage in lines; behind each character, the cell state: blue below zero, red above."""
    row = column = 0
    places = list[tuple[int, int]]()
    for character in passage:
        if column == COLUMNS:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    colours = np.full((places[-1][0] + 1, 1 + max(column for _, column in places)), np.nan)
    for (at, over), value in zip(places, cell, strict=True):
        colours[at, over] = value
    most = max(1e-6, float(np.nanmax(np.abs(colours))))
    axes.imshow(colours, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
    for (at, over), character, value in zip(places, passage, cell, strict=True):
        bright = "white" if abs(value) > 0.7 * most else "black"
        axes.text(over, at, shown(character), ha="center", va="center", family="monospace", fontsize=7, color=bright)
    axes.set_axis_off()
