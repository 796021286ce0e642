"""How the pictures look that studies, benchmarks and `charloom inspect` draw with matplotlib. No display is needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

COLOURS = ("#c2570c", "#d99a2b", "#7aa6c9", "#0b5fa5", "#12305c", "#666666")
GREY = "#666666"
STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",  # text stays text, which tests and readers can search
    "svg.hashsalt": "charloom",
}
REPRODUCIBLE: Mapping[str, Mapping[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}},
    "svg": {"metadata": {"Date": None}},
}
"""Options of each format that leave out what would differ from day to day or between versions of matplotlib."""


@contextmanager
def picture(
    file: Path,
    width: float,
    height: float,
    *,
    form: Literal["png", "svg"] = "png",
    dots: int = 100,
    layout: Literal["constrained"] | None = "constrained",
    style: Any = None,
) -> Iterator[Figure]:
    """An empty figure, which is saved once it is filled. The same figures give the same file.

    Args:
        file: where to save it
        width: inches
        height: inches
        form: the format of the file
        dots: per inch, of a PNG
        layout: None, where each axes stands exactly where it was put
        style: a dictionary of matplotlib settings that differ from `STYLE`
    """
    with matplotlib.rc_context({**STYLE, **(style or {})}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for the character
        figure = Figure(figsize=(width, height), dpi=dots, layout=layout)
        yield figure
        figure.savefig(file, format=form, dpi=dots, **REPRODUCIBLE[form])


def shown(character: str) -> str:
    """The character, or a visible one in the place of a line break, a tab or what cannot be shown."""
    return {"\n": "↵", "\t": "→", "\r": "←"}.get(character, character if character.isprintable() else "?")
