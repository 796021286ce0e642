"""What some units do while a text is read, drawn as PNG with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.cells import cell_len, set_cell_size

from charloom.cli.sessions.heatmap import Heatmap
from charloom.lab.pictures import GREY, picture

LONGEST_BAND = 100
"""Tokens beside one another; further ones come below."""
TOKEN, UNIT = 0.16, 0.18
"""Inches across and down."""
LEFT, RIGHT, TOP = 0.75, 1.0, 0.75
BITS, BETWEEN, LABELS = 0.5, 0.06, 0.5
"""Heights in a band, in inches: of the bits, of the gap below them, of what is below the units: labels of one character
and the gap to the next band."""
UPRIGHT, LONGEST_LABEL = 2, 30
"""Columns of a label: where one has more than the first, all are turned; what is beyond the second is left out."""
COLUMN = 0.067
"""Inches that a column of a label takes."""
DOTS = 150
"""Per inch."""
MOST_DOTS = 2**16 - 1
"""Matplotlib draws no more in one direction."""
FONT: dict[str, Any] = {"fontfamily": "monospace", "fontsize": 8, "parse_math": False}


def save(heatmap: Heatmap, file: Path) -> None:
    """Write the picture: bands of tokens, each with how surprising they were above what the units do.

    Raises:
        OSError: the file cannot be written.
        ValueError: the picture would be too large.
    """
    labels = [_shortened(label.replace(" ", "␣")) for label in heatmap.labels]
    longest = max(map(cell_len, labels))
    turned = longest > UPRIGHT
    count = -(-len(labels) // LONGEST_BAND)
    tokens = -(-len(labels) // count)
    units = UNIT * len(heatmap.units)
    band = BITS + BETWEEN + units + LABELS + (COLUMN * (longest - 1) if turned else 0)
    width, height = LEFT + max(TOKEN * tokens, 4.5) + RIGHT, TOP + count * band
    if height * DOTS > MOST_DOTS:
        raise ValueError(f"the picture would be {height * DOTS:,.0f} dots high, more than {MOST_DOTS:,}")
    with picture(file, width, height, dots=DOTS, layout=None, style={"axes.grid": False}) as figure:

        def axes(left: float, top: float, across: float, down: float) -> Axes:
            return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

        left, title, below_title = LEFT / width, 1 - 0.15 / height, 1 - 0.4 / height
        figure.text(left, title, heatmap.title, va="top", fontsize=12, weight="bold", parse_math=False)
        figure.text(left, below_title, heatmap.summary, va="top", fontsize=9, color=GREY)
        for number in range(count):
            part = slice(number * tokens, (number + 1) * tokens)
            across, top = TOKEN * len(labels[part]), TOP + number * band
            _bits(axes(LEFT, top, across, BITS), heatmap, part)
            below = axes(LEFT, top + BITS + BETWEEN, across, units)
            image = below.imshow(
                heatmap.values[:, part],
                aspect="auto",
                interpolation="nearest",
                cmap="viridis" if heatmap.low == 0 else "RdBu_r",
                vmin=heatmap.low,
                vmax=heatmap.high,
            )
            below.set_xticks(range(len(labels[part])), labels[part], rotation=90 if turned else 0, **FONT)
            below.set_yticks(range(len(heatmap.units)), list(map(str, heatmap.units)), fontsize=8)
            below.set_ylabel("unit", fontsize=9)
            below.tick_params(length=0)
            bar = axes(LEFT + TOKEN * tokens + 0.15, top + BITS + BETWEEN, 0.12, units)
            figure.colorbar(image, cax=bar).ax.tick_params(labelsize=8)


def _shortened(label: str) -> str:
    return label if cell_len(label) <= LONGEST_LABEL else set_cell_size(label, LONGEST_LABEL - 1).rstrip() + "…"


def _bits(axes: Axes, heatmap: Heatmap, part: slice) -> None:
    bits = heatmap.bits[part]
    axes.bar(np.arange(len(bits)), bits, width=0.8, color=GREY)
    axes.set_xlim(-0.5, len(bits) - 0.5)
    axes.set_ylim(0, max(1.0, float(heatmap.bits.max())))
    axes.set_xticks([])
    axes.set_ylabel("bits", fontsize=9)
    axes.tick_params(labelsize=8)
