"""What the figures of a GPU say: as a table, and which of them are wrong or too small. Imports nothing to install."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Figures = dict[str, Any]
"""By part ("invariance", "decoder", ...) and name, as `benchmarks.gpu` measures them."""


class Aim(NamedTuple):
    """What a figure should be."""

    words: str
    part: str
    name: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= (self.at_least or 0.0) and (self.at_most is None or value <= self.at_most)


AIMS = (
    Aim("characters/s at 1,024 rows, fp32: 5,000,000", "decoder", "1024", "plain_chars_per_s", at_least=5e6),
    Aim("microseconds a step at one row, fp32: at most 60", "decoder", "1", "plain_step_us", at_most=60.0),
)


def problems(found: Figures) -> list[str]:
    """What is wrong, in words: steps and tests that failed, figures that are missing, rows that are not independent."""
    return [
        *(f"{name}: {step['problem']}" for name, step in found.get("steps", {}).items() if "problem" in step),
        *(f"test {name}: {why}" for name, why in found.get("tests", {}).get("failures", {}).items()),
        *(
            f"{part} {name}: {figures['failed']}"
            for part, named in found.items()
            if isinstance(named, dict)
            for name, figures in named.items()
            if isinstance(figures, dict) and "failed" in figures
        ),
        *(f"rows are not independent among {n}" for n, same in found.get("invariance", {}).items() if same is False),
    ]


def aims(found: Figures) -> Iterator[tuple[str, float | None, bool]]:
    """Each aim: in words, the value, and whether it is met."""
    for aim in AIMS:
        value = found.get(aim.part, {}).get(aim.name, {}).get(aim.figure)
        yield aim.words, value, value is not None and aim.met(value)


def table(found: Figures) -> list[tuple[object, ...]]:
    """Decoder, layouts and streams, a row each, for `reporting.table_of`."""
    rows: list[tuple[object, ...]] = [("", "step us", "characters/s", "with filters: step us", "characters/s")]
    plain, full = ("plain_step_us", "plain_chars_per_s"), ("full_step_us", "full_chars_per_s")
    for n, figures in found.get("decoder", {}).items():
        rows.append((f"{n} rows", *(figures.get(name, "failed") for name in (*plain, *full))))
    for name, figures in found.get("layouts", {}).items():
        rows.append((name, *(figures.get(figure, "failed") for figure in plain), "", ""))
    for n, figures in found.get("streams", {}).items():
        rows.append((f"{n} streams", "", figures.get("chars_per_s", "failed"), "", ""))
    return rows
