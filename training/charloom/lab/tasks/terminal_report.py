"""A classifier's training and its scores, on a terminal or in a log file."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from charloom.lab.tasks.classification import Epoch
from charloom.lab.tasks.scores import Scores


class TerminalReporter:
    """A progress bar for each epoch on a terminal; plain lines, one per epoch, anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.finished = 0
        """Epochs that have ended"""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("epoch 1", figures="")

    def __enter__(self) -> TerminalReporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Move the bar."""
        figures = f"{loss:.3f} nats"
        self._bar.update(self._task, description=f"epoch {epoch}", completed=batch, total=batches, figures=figures)

    def epoch(self, epoch: Epoch) -> None:
        """Print the figures."""
        self.finished = epoch.epoch
        mark = "  (best)" if epoch.best else ""
        self._console.print(
            f"epoch {epoch.epoch:3}  train {epoch.train_loss:.4f} nats  validation {epoch.validation_loss:.4f} nats  "
            f"accuracy {epoch.accuracy:.4f}  macro F1 {epoch.macro_f1:.4f}{mark}  padding {epoch.padding:.1%}  "
            f"{epoch.seconds:,.0f} s"
        )


def score_line(scores: Scores) -> str:
    """The figures of all labels together."""
    return (
        f"{scores.texts:,} texts  accuracy {scores.accuracy:.4f} (always the most frequent label: "
        f"{scores.majority:.4f})  macro F1 {scores.macro_f1:.4f}  loss {scores.loss:.4f} nats  "
        f"calibration error {scores.calibration_error:.4f}"
    )


def score_table(scores: Scores, labels: Sequence[str]) -> Table:
    """The figures of each label, and which labels its texts were given."""
    table = Table("label", box=None)
    for heading in ("texts", "precision", "recall", "F1", *(f"given {label}" for label in labels)):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = zip(labels, scores.precision, scores.recall, scores.f1, scores.confusion.tolist(), strict=True)
    for label, precision, recall, f1, given in rows:
        figures = (f"{figure:.4f}" for figure in (precision, recall, f1))
        table.add_row(label, f"{sum(given):,}", *figures, *(f"{count:,}" for count in given))
    return table
