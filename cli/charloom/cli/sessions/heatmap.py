"""What some units do while a text is read, drawn on a terminal.

Axis letters: T tokens, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

Floats = npt.NDArray[np.float32]

BARS = "▁▂▃▄▅▆▇█"
"""Where there are no colours: from the lowest value to the highest."""
RDBU_R = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""A fifth of matplotlib's colour maps of these names; terminals have no more room."""


@dataclass(frozen=True)
class Heatmap:
    """What some units did at each token of a text, and the range of the colours."""

    title: str
    symbols: Sequence[bytes]
    """[T]: the tokens"""
    bits: Floats
    """[T]: how surprising each token was"""
    units: Sequence[int]
    """[U]"""
    values: Floats
    """[U, T]"""
    low: float
    """What the first colour stands for; 0, or `-high`."""
    high: float
    """What the last colour stands for."""

    @property
    def labels(self) -> list[str]:
        """[T]: the tokens as a person can see them; a byte that is no character of its own as two digits."""
        return [_label(symbol) for symbol in self.symbols]

    @property
    def summary(self) -> str:
        """How long the text is, and how surprising."""
        characters = len(b"".join(self.symbols).decode(errors="ignore"))
        return f"{characters:,} characters, {self.bits.sum() / max(characters, 1):.2f} bits per character"


def draw(heatmap: Heatmap, console: Console) -> None:
    """Tokens across, units down, in bands as wide as the console; bars take the place of colours that it lacks.

    Above the units, in whole numbers up to 9, are the bits of each token.
    """
    labels = heatmap.labels
    width = max(map(cell_len, labels))
    names = ["", "bits", *map(str, heatmap.units)]
    margin = max(map(len, names))
    tokens = max(1, (console.width - margin - 1) // width)
    console.print(Text(heatmap.title, "bold"), soft_wrap=True)
    for first in range(0, len(labels), tokens):
        band = slice(first, first + tokens)
        rows = [Text("".join(label + " " * (width - cell_len(label)) for label in labels[band]), "bold")]
        rows.append(Text("".join(f"{min(9, round(bits))}".ljust(width) for bits in heatmap.bits[band].tolist()), "dim"))
        rows += [_blocks(heatmap, row[band], width, console) for row in heatmap.values]
        for name, row in zip(names, rows, strict=True):
            console.print(Text(f"{name:>{margin}} ").append_text(row), soft_wrap=True)
        console.print()
    scale = _blocks(heatmap, np.linspace(heatmap.low, heatmap.high, len(BARS), dtype=np.float32), 1, console)
    console.print(Text(f"{heatmap.low:g} ").append_text(scale).append(f" {heatmap.high:g}"), soft_wrap=True)
    console.print(heatmap.summary, soft_wrap=True)


def _label(symbol: bytes) -> str:
    try:
        character = symbol.decode()
    except UnicodeDecodeError:
        return symbol.hex()
    if character in ("\n", "\t"):
        return "↵" if character == "\n" else "⇥"
    # What has no form, or no width, would shift all that follows it.
    return character if character.isprintable() and cell_len(character) else "·"


def _blocks(heatmap: Heatmap, values: Floats, width: int, console: Console) -> Text:
    """One block for each value."""
    shares = ((values - heatmap.low) / (heatmap.high - heatmap.low)).clip(0, 1).tolist()
    if console.color_system is None or console.no_color:
        return Text("".join(BARS[round(share * (len(BARS) - 1))] * width for share in shares))
    anchors = VIRIDIS if heatmap.low == 0 else RDBU_R
    text = Text()
    for share in shares:
        text.append(" " * width, Style(bgcolor=_colour(share, anchors)))
    return text


def _colour(share: float, anchors: Sequence[tuple[int, int, int]]) -> Color:
    """The colour at a share of the way from the first anchor to the last."""
    place = share * (len(anchors) - 1)
    before = min(int(place), len(anchors) - 2)
    part = place - before
    one, other = anchors[before], anchors[before + 1]
    return Color.from_rgb(*(round(left + part * (right - left)) for left, right in zip(one, other, strict=True)))
