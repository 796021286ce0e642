"""Showing a run on a terminal or in a log file.

Knows: rich, figures and their units. Does not know: training.
"""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from charloom.training.records import Evaluation
from charloom.training.records import Progress as Step


def loss_figures(nats: float) -> str:
    """A loss in the three units that people compare."""
    return f"{nats:.4f} nats  {nats / math.log(2):.4f} bits  perplexity {math.exp(min(nats, 50)):.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("figures", ""))


class TerminalReporter:
    """A progress bar on a terminal; plain lines, one per evaluation, anywhere else."""

    def __init__(self, console: Console, total_steps: int, done_steps: int, unit: str) -> None:
        self._console = console
        self._unit = unit
        self._bar = Progress(
            BarColumn(bar_width=8),
            TaskProgressColumn(),
            _Figures(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=done_steps, figures="")

    def __enter__(self) -> TerminalReporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, progress: Step) -> None:
        """Move the bar."""
        nats = progress.loss
        figures = (
            f"{nats:.3f} nats {nats / math.log(2):.3f} bits ppl {math.exp(min(nats, 50)):.2f} "
            f"{progress.tokens_per_second:,.0f} {self._unit.replace('character', 'char')}/s"
        )
        self._bar.update(self._task, completed=progress.step, figures=figures)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print the figures and a sample."""
        mark = "  (best)" if evaluation.best else ""
        self._console.print(
            f"epoch {evaluation.epoch:6.2f}  step {evaluation.step}  train {evaluation.train_loss:.4f} nats  "
            f"validation {loss_figures(evaluation.validation_loss)}{mark}  "
            f"{evaluation.tokens_per_second:,.0f} {self._unit}s/s  {_clock(evaluation.seconds)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sample = "\n".join(f"    | {line}" for line in evaluation.sample.splitlines())
        self._console.print(sample, markup=False, highlight=False, soft_wrap=True)
