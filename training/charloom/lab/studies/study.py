"""What every study is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from rich.table import Table

Say = Callable[[str], None]
"""Where a study tells how far it is, a line at a time."""


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdecimal() and part.strip("0") for part in parts):
        raise ValueError("give whole numbers above 0, with commas between them, such as 10,50")
    return parts


Lengths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split), Field(min_length=1)]
"""Some numbers of steps; on a command line `10,50`."""


def _numbers(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise ValueError("give numbers with commas between them, such as 0.5,-0.2") from None


Numbers = Annotated[
    tuple[Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)], ...],
    BeforeValidator(_numbers),
    Field(min_length=1, max_length=6),
]
"""Up to six numbers; on a command line `0.5,-0.2`."""


class StudyError(Exception):
    """A study cannot be made; the message says why and what to do."""


class Settings(BaseModel):
    """The settings of a study: a subclass has a field for each, with a default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Study:
    """One study: its settings, and the functions that measure, draw and print."""

    line: str
    """What it shows, in a line."""
    settings: type[Settings]
    measure: Callable[..., Any]
    """(settings, say) to a dataclass; where the study reads a run, the `Reading` of it comes first."""
    draw: Callable[[Any, Path], None]
    """Plots what was measured into a file."""
    tables: Callable[[Any], list[Table]]
    """What was measured, for a terminal."""
    reads_a_run: bool = False
