"""Who watches a run of `charloom train`: the terminal, the report, the warnings' file, TensorBoard."""

from __future__ import annotations

import importlib
from pathlib import Path

from rich.console import Console

from charloom.cli import CommandError
from charloom.training.files import CheckpointError
from charloom.training.loop import Trainer
from charloom.training.records import Watcher
from charloom.training.watching.advice import Adviser
from charloom.training.watching.dashboard import Dashboard
from charloom.training.watching.history import read_evaluations, read_warnings
from charloom.training.watching.html_report import HtmlReport, write_report
from charloom.training.watching.terminal import TerminalReporter
from charloom.training.watching.watchers import WarningsFile, Watchers


def require_tensorboard() -> None:
    """Refuse `--tensorboard` where the package is missing, before anything was computed."""
    try:
        importlib.import_module("charloom.training.watching.tensorboard")
    except ModuleNotFoundError as missing:
        raise CommandError(
            f"--tensorboard needs {missing.name}, which is not installed; run: pip install 'charloom[watch]'"
        ) from missing


def watching(trainer: Trainer, console: Console, *, tensorboard: bool) -> Watchers:
    """All watchers of a run that is about to start or to go on; of several processes only the first has some."""
    run, unit = trainer.run, trainer.config.unit.plural.removesuffix("s")
    if not trainer.ranks.first:
        return Watchers([], Adviser(trainer.config))
    evaluations = [evaluation for evaluation in read_evaluations(run) if evaluation.step <= trainer.step]
    warnings = [advice for advice in read_warnings(run) if advice.step <= trainer.step]
    dashboard = Dashboard(run.name, unit, trainer.total_steps, trainer.step, evaluations)
    watchers: list[Watcher] = [WarningsFile(run), HtmlReport(run)]
    if tensorboard:
        from charloom.training.watching.tensorboard import TensorBoard

        watchers.append(TensorBoard(run, trainer.step))
    watchers.append(TerminalReporter(console, dashboard, unit))
    return Watchers(watchers, Adviser(trainer.config, evaluations, warnings))


def keep_report(run: Path, console: Console) -> None:
    """Write the report of a finished run; where that fails, say so and go on."""
    try:
        console.print(f"report: {write_report(run)}")
    except CheckpointError as problem:
        console.print(f"warning: no report was written: {problem}")
