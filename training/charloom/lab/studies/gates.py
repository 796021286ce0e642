"""When a trained model's gates open and close: over a sentence, by kinds of characters, and by single characters.

Axis letters: L layers, T time, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import COLOURS, picture, shown
from charloom.lab.studies.features import CLASSES, character_class
from charloom.lab.studies.reading import Reading
from charloom.lab.studies.study import Say, Settings, StudyError
from charloom.network.cells import CANDIDATE

FORGET = "forget"
CLOSED = 0.1
"""A forget gate below this all but empties its cell."""
OFTEN = 20
"""A mean is given for characters that occur at least this often."""


class GateSettings(Settings):
    """Settings of the gate study."""

    characters: int = Field(5000, ge=100, description="characters to read")
    shown_characters: int = Field(80, ge=10, le=200, description="characters in the picture")
    shown_from: int = Field(500, ge=0, description="the picture begins with the first line after this")
    shown_units: int = Field(40, ge=2, le=200, description="units in the picture: those whose forget gate moves most")


@dataclass(frozen=True)
class GateResult:
    """What the gates of all layers did."""

    network: str
    characters: int
    by_class: dict[str, dict[str, list[float]]]
    """means over units and characters: gate, kind of character, layer"""
    closed: dict[str, list[float]]
    """share of forget gates below `CLOSED`: kind of character, layer"""
    counts: dict[str, int]
    """of each kind of character"""
    by_character: list[dict[str, float]]
    """of each layer: mean forget gate of each frequent character"""
    passage: str
    """the shown characters"""
    units: list[int]
    """the shown units of the last layer, in an order that puts units that behave alike side by side"""
    forget: list[list[float]]
    """forget gate of each shown unit at each shown character"""
    mean_forget: list[list[float]]
    """mean over all units, of each layer at each shown character"""


def measure(reading: Reading, settings: GateSettings, say: Say) -> GateResult:
    """Read the text and take the means.

    Raises:
        StudyError: the text is too short for the picture, or the network's cell has no forget gate.
    """
    if len(reading.tokens) < settings.shown_from + settings.shown_characters:
        raise StudyError(
            f"the text has {len(reading.tokens)} characters; the picture needs those from {settings.shown_from} to "
            f"{settings.shown_from + settings.shown_characters}: give more text, or lower --shown-from"
        )
    text, trace = reading.read(max(settings.characters, settings.shown_from + settings.shown_characters))
    say(f"{reading.network}: read {len(text):,} characters")
    if FORGET not in trace.gates:
        raise StudyError(f"the study is of forget gates, and {reading.network} has {', '.join(trace.gates)}")
    forget = trace.gates[FORGET]
    kinds = np.array([character_class(character) for character in text])
    counts = {kind: int((kinds == kind).sum()) for kind in CLASSES if (kinds == kind).any()}
    by_class = {
        name: {kind: _floats(gate[:, kinds == kind].mean(axis=(1, 2))) for kind in counts}
        for name, gate in trace.gates.items()
        if name != CANDIDATE
    }
    closed = {kind: _floats((forget[:, kinds == kind] < CLOSED).mean(axis=(1, 2))) for kind in counts}
    letters = np.array(list(text))
    frequent = [character for character in sorted(set(text)) if (letters == character).sum() >= OFTEN]
    by_character = [{c: round(float(layer[letters == c].mean()), 4) for c in frequent} for layer in forget]
    start = settings.shown_from
    if "\n" in text[start : -settings.shown_characters]:
        start = text.index("\n", start) + 1  # from the beginning of a line
    passage = slice(start, start + settings.shown_characters)
    highest = forget[-1, passage]
    moving = np.argsort(-highest.std(axis=0))[: settings.shown_units]
    units = _alike_together(highest[:, moving].T)
    return GateResult(
        reading.network,
        len(text),
        by_class,
        closed,
        counts,
        by_character,
        text[passage],
        [int(unit) for unit in moving[units]],
        [_floats(row) for row in highest[:, moving[units]].T],
        [_floats(layer) for layer in forget[:, passage].mean(axis=2)],
    )


def _floats(values: npt.NDArray[np.float32]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _alike_together(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """An order of rows by their place along the direction in which they differ most."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    return np.argsort(left[:, 0])


def tables(result: GateResult) -> list[Table]:
    """Means by kind of character, and the characters that open and close the forget gate."""
    layers = len(result.by_character)
    means = Table(title=f"Mean gates, layers from below ({result.network})", box=SIMPLE_HEAD)
    means.add_column("characters")
    means.add_column("count", justify="right")
    for name in result.by_class:
        means.add_column(name, justify="right")
    means.add_column(f"forget < {CLOSED:g}", justify="right")
    for kind, count in result.counts.items():
        cells = ["  ".join(f"{value:.2f}" for value in result.by_class[name][kind]) for name in result.by_class]
        means.add_row(kind, f"{count:,}", *cells, "  ".join(f"{share:.1%}" for share in result.closed[kind]))
    extremes = Table(title=f"Mean forget gate by character (of those with {OFTEN} or more)", box=SIMPLE_HEAD)
    for heading in ("layer", "closes it", "opens it"):
        extremes.add_column(heading)
    for layer in range(layers):
        ordered = sorted(result.by_character[layer].items(), key=lambda item: item[1])
        low, high = ordered[:5], ordered[:-6:-1]
        extremes.add_row(
            str(layer + 1), *("  ".join(f"{shown(c)}\u00a0{v:.2f}" for c, v in part) for part in (low, high))
        )
    return [means, extremes]


def draw(result: GateResult, file: Path) -> None:
    """The forget gate over the passage, unit by unit and in the mean; below, the means by kind of character."""
    layers = len(result.by_character)
    width = max(8.0, 0.125 * len(result.passage))
    with picture(file, width, 6.6) as figure:
        mean, heat, kinds = figure.subplots(3, 1, height_ratios=(1, 3, 1.6))
        for layer, values in enumerate(result.mean_forget):
            mean.plot(values, color=COLOURS[3 * layer % 5], label=f"layer {layer + 1}")
        mean.set(xlim=(-0.5, len(result.passage) - 0.5), ylabel="mean")
        mean.tick_params(labelbottom=False)
        mean.legend(frameon=False, ncols=layers, loc="lower right", bbox_to_anchor=(1, 0.96))
        mean.set_title(f"Forget gate while reading ({result.network})", loc="left", fontsize=10)
        image = heat.imshow(result.forget, aspect="auto", vmin=0, vmax=1, cmap="magma", interpolation="nearest")
        heat.set_xticks(range(len(result.passage)), [shown(c) for c in result.passage], family="monospace")
        heat.set_yticks([])
        heat.grid(False)
        heat.set_ylabel(f"{len(result.units)} units of layer {layers}")
        figure.colorbar(image, ax=heat, pad=0.01, ticks=[0, 0.5, 1]).set_ticklabels(["closed", "½", "open"])
        places, bar = np.arange(len(result.counts)), 0.8 / (len(result.by_class) * layers)
        for number, name in enumerate(result.by_class):
            for layer in range(layers):
                heights = [result.by_class[name][kind][layer] for kind in result.counts]
                at = places + bar * (number * layers + layer + 0.5) - 0.4
                alpha = 0.4 + 0.6 * (layer + 1) / layers
                colour, label = COLOURS[(3, 0, 5)[number % 3]], name if layer == 0 else None
                kinds.bar(at, heights, bar, color=colour, alpha=alpha, label=label)
        kinds.set_xticks(places, list(result.counts))
        kinds.grid(False, axis="x")
        kinds.set_ylabel("mean gate")
        kinds.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.97))
        kinds.set_title("All gates by kind of character; a bar for each layer from below", loc="left", fontsize=10)
