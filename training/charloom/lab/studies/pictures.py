"""How the plots look.

Knows: matplotlib. Does not know: what is drawn. No display is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
}


@contextmanager
def picture(file: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of some inches, saved when filled. The same figures give the same file."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(file, dpi=100, metadata={"Software": None}, pil_kwargs={"optimize": True})


def shown(character: str) -> str:
    """A character that can be seen."""
    return {"\n": "↵", "\t": "→", "\r": "←"}.get(character, character if character.isprintable() else "?")
