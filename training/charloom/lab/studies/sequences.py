"""Attention: an encoder, and a decoder that looks back at its states, reverse strings, read dates and translate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from charloom.lab.pictures import picture, shown
from charloom.lab.studies.study import Say, Settings, StudyError
from charloom.lab.tasks.pairs import Dates, Pair, PairTask, Reversal
from charloom.lab.tasks.parallel import read_parallel
from charloom.lab.tasks.sequences import Answer, SequenceSettings, train
from charloom.training.data.text_settings import EncodingSettings

PICTURES = 4
"""How many answers are kept with their attention."""


class ReversalSettings(SequenceSettings, Settings):
    """Settings of the study of reversal."""

    shortest: int = Field(4, ge=1, le=1000, description="letters of the shortest string")
    longest: int = Field(10, ge=1, le=1000, description="letters of the longest string")


class DateSettings(SequenceSettings, Settings):
    """Settings of the study of dates."""


class TranslationSettings(SequenceSettings, EncodingSettings, Settings):
    """Settings of the study of translation."""

    pairs: Path | None = Field(None, description="file to learn from, a line each: source, tab, target")
    longest: int = Field(100, ge=1, le=1000, description="characters that a source or a target may have")
    test_share: float = Field(0.1, gt=0, lt=1, description="share of the sources that is kept for the test")
    hidden_size: int = Field(128, ge=1, le=4096, description="units of the encoder's directions and of the decoder, H")
    steps: int = Field(2000, ge=1, description="batches to train on, each of pairs drawn at random")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate of Adam; a tenth of the steps warms up")
    examples: int = Field(500, ge=1, description="held-out pairs to measure with, or all where there are fewer")


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
    character_errors: float
    """characters to correct in what was written, as a share of the characters that are right"""
    unknown: int
    """how many of the examples have a character that training had not"""
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


def measure_translation(settings: TranslationSettings, say: Say) -> SequenceResult:
    """Train on the pairs of a file, and translate sources of it that were held out.

    Raises:
        StudyError: no file is named.
        CorpusError: it cannot be read, or a line of it is no pair.
    """
    if settings.pairs is None:
        raise StudyError("this study learns from a file: give it with --pairs, a line each: source, tab, target")
    task = read_parallel(
        settings.pairs,
        longest=settings.longest,
        test_share=settings.test_share,
        seed=settings.seed,
        encoding=settings.encoding,
    )
    say(f"{len(task.training):,} pairs to train on, {len(task.held_out):,} held out")
    return _measure(task, settings, say, task.held_out[: settings.examples])


def tables(result: SequenceResult) -> list[Table]:
    """What was found, and some of what was written."""
    figures = Table(box=SIMPLE_HEAD)
    row = {
        "parameters": f"{result.parameters:,}",
        "held-out examples": f"{result.examples:,}",
        "without a mistake": f"{result.exact:.1%}",
    }
    if result.mirrored is None:
        row["characters to correct"] = f"{result.character_errors:.1%}"
    else:
        row["attention on the letter to write"] = f"{result.mirrored:.1%}"
    if result.unknown:
        row["with unknown characters"] = f"{result.unknown:,}"
    for heading in row:
        figures.add_column(heading, justify="right")
    figures.add_row(*row.values())
    written = Table("read", "written", "right", box=SIMPLE_HEAD)
    for answer in result.answers:
        written.add_row(*map(_line, (answer.source, answer.written, answer.target)))
    for mistake in result.mistakes[:PICTURES]:
        written.add_row(*map(_line, (mistake.source, mistake.written, mistake.target)))
    return [figures, written]


def draw(result: SequenceResult, file: Path) -> None:
    """The attention of the answers that were kept: a row for each symbol written, a column for each one read."""
    read = max(len(answer.source) for answer in result.answers)
    written = max(len(answer.weights) for answer in result.answers)
    width, height = max(9, 1.5 + 0.22 * read), max(7, 2 + 0.22 * written)  # inches: room for the characters
    with picture(file, min(width, 30), min(height, 30)) as figure:
        for axes, answer in zip(figure.subplots(2, 2).flat, result.answers, strict=False):
            _draw_answer(axes, answer)
        figure.suptitle(f"Attention; {result.exact:.1%} of {result.examples:,} held-out examples without a mistake")


def mirrored_attention(answer: Answer) -> float:
    """Mean weight on the character that each step of a reversal is to write; 0 for a step that was not made."""
    last = len(answer.source) - 1
    rows = answer.weights[: last + 1]
    return sum(row[last - step] for step, row in enumerate(rows)) / (last + 1)


def _measure(task: PairTask, settings: SequenceSettings, say: Say, held_out: Sequence[Pair] = ()) -> SequenceResult:
    trained = train(task, settings, say, held_out)
    sources, targets = set(task.source_symbols), set(task.target_symbols)
    known = [sources.issuperset(answer.source) and targets.issuperset(answer.target) for answer in trained.answers]
    mirrored = [mirrored_attention(answer) for answer in trained.answers] if isinstance(task, Reversal) else []
    return SequenceResult(
        examples=len(trained.answers),
        exact=trained.exact,
        character_errors=trained.character_errors,
        unknown=known.count(False),
        mirrored=sum(mirrored) / len(mirrored) if mirrored else None,
        parameters=sum(parameter.numel() for parameter in trained.transducer.model.parameters()),
        losses=trained.losses,
        answers=trained.answers[:PICTURES],
        mistakes=[Mistake(a.source, a.target, a.written) for a in trained.answers if a.written != a.target],
    )


def _line(text: str) -> str:
    return "".join(map(shown, text))


def _draw_answer(axes: Axes, answer: Answer) -> None:
    axes.imshow(answer.weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(answer.source)), [shown(character) for character in answer.source])
    axes.set_yticks(range(len(answer.weights)), [*map(shown, answer.written), "end"][: len(answer.weights)])
    axes.set(xlabel="read", ylabel="written")
