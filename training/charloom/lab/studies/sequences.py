"""Attention: reversing strings and reading dates, with an encoder and a decoder that looks back at its states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import picture, shown
from charloom.lab.studies.study import Say, Settings, StudyError
from charloom.lab.tasks.pairs import Dates, PairTask, Reversal
from charloom.lab.tasks.sequences import Answer, SequenceSettings, train

PICTURES = 4
"""How many answers are kept with their attention."""


class ReversalSettings(SequenceSettings, Settings):
    """Settings of the study of reversal."""

    shortest: int = Field(4, ge=1, le=1000, description="letters of the shortest string")
    longest: int = Field(10, ge=1, le=1000, description="letters of the longest string")


class DateSettings(SequenceSettings, Settings):
    """Settings of the study of dates."""


@dataclass(frozen=True)
class Mistake:
    """A held-out example that was written wrongly."""

    source: str
    target: str
    written: str


@dataclass(frozen=True)
class SequenceResult:
    """What one study found."""

    examples: int
    """how many held-out ones were read"""
    exact: float
    """share of them that was written without a mistake, greedily"""
    mirrored: float | None
    """in reversal, mean attention to the character that is being written"""
    parameters: int
    losses: list[float]
    """of each batch of the training, nats per target symbol"""
    answers: list[Answer]
    """the first held-out examples"""
    mistakes: list[Mistake]


def measure_reversal(settings: ReversalSettings, say: Say) -> SequenceResult:
    """Train on random strings and their reverses; the attention should run from the end to the start.

    Raises:
        StudyError: the shortest string is longer than the longest.
    """
    if settings.shortest > settings.longest:
        raise StudyError(f"--shortest {settings.shortest} is more than --longest {settings.longest}; swap them")
    return _measure(Reversal(settings.shortest, settings.longest), settings, say)


def measure_dates(settings: DateSettings, say: Say) -> SequenceResult:
    """Train on dates as people write them, to write them as ISO 8601 does."""
    return _measure(Dates(), settings, say)


def tables(result: SequenceResult) -> list[Table]:
    """What was found, and some of what was written."""
    figures = Table(box=SIMPLE_HEAD)
    row = {
        "parameters": f"{result.parameters:,}",
        "held-out examples": f"{result.examples:,}",
        "without a mistake": f"{result.exact:.1%}",
    }
    if result.mirrored is not None:
        row["attention on the letter to write"] = f"{result.mirrored:.1%}"
    for heading in row:
        figures.add_column(heading, justify="right")
    figures.add_row(*row.values())
    written = Table("read", "written", "right", box=SIMPLE_HEAD)
    for answer in result.answers:
        written.add_row(answer.source, answer.written, answer.target)
    for mistake in result.mistakes[:PICTURES]:
        written.add_row(mistake.source, mistake.written, mistake.target)
    return [figures, written]


def draw(result: SequenceResult, file: Path) -> None:
    """The attention of the answers that were kept: a row for each symbol written, a column for each one read."""
    with picture(file, 9, 7) as figure:
        for axes, answer in zip(figure.subplots(2, 2).flat, result.answers, strict=False):
            _draw_answer(axes, answer)
        figure.suptitle(f"Attention; {result.exact:.1%} of {result.examples:,} held-out examples without a mistake")


def mirrored_attention(answer: Answer) -> float:
    """Mean weight on the character that each step of a reversal is to write; 0 for a step that was not made."""
    last = len(answer.source) - 1
    rows = answer.weights[: last + 1]
    return sum(row[last - step] for step, row in enumerate(rows)) / (last + 1)


def _measure(task: PairTask, settings: SequenceSettings, say: Say) -> SequenceResult:
    trained = train(task, settings, say)
    mirrored = [mirrored_attention(answer) for answer in trained.answers] if isinstance(task, Reversal) else []
    return SequenceResult(
        examples=settings.examples,
        exact=trained.exact,
        mirrored=sum(mirrored) / len(mirrored) if mirrored else None,
        parameters=sum(parameter.numel() for parameter in trained.transducer.model.parameters()),
        losses=trained.losses,
        answers=trained.answers[:PICTURES],
        mistakes=[Mistake(a.source, a.target, a.written) for a in trained.answers if a.written != a.target],
    )


def _draw_answer(axes: Axes, answer: Answer) -> None:
    axes.imshow(answer.weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(answer.source)), [shown(character) for character in answer.source])
    axes.set_yticks(range(len(answer.weights)), [*answer.written, "end"][: len(answer.weights)])
    axes.set(xlabel="read", ylabel="written")
