"""The watcher that shows a run on a terminal: a dashboard there, plain lines in a log file."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live

from charloom.training.records import DIVERGED, Advice, Evaluation, Progress
from charloom.training.watching.dashboard import Dashboard
from charloom.training.watching.figures import clock, loss_figures, printable

PAUSE = 0.5
"""Seconds between two pictures, at least."""
PAUSE_SHARE = 100
"""And at least this many times what a picture takes, so that drawing takes 1 % of the time."""


class TerminalReporter:
    """A dashboard on a terminal, drawn again now and then; anywhere else plain lines, some per evaluation."""

    def __init__(self, console: Console, dashboard: Dashboard, unit: str) -> None:
        self._console = console
        self._dashboard = dashboard
        self._unit = unit
        self._next = 0.0
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()

    def step(self, progress: Progress) -> None:
        """Take note; draw if it is time to."""
        self._dashboard.step(progress)
        if time.monotonic() >= self._next:
            self._draw()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print the figures and a sample."""
        self._dashboard.evaluation(evaluation)
        mark = "  (best)" if evaluation.best else ""
        self._print(
            f"epoch {evaluation.epoch:6.2f}  step {evaluation.step}  train {evaluation.train_loss:.4f} nats  "
            f"validation {loss_figures(evaluation.validation_loss)}{mark}  "
            f"{evaluation.tokens_per_second:,.0f} {self._unit}s/s  {clock(evaluation.seconds)}"
        )
        self._print("\n".join(f"    | {line}" for line in printable(evaluation.sample)))
        self._draw()

    def advice(self, advice: Advice) -> None:
        """Print the warning; that the run diverged is for the command to say."""
        if advice.cause != DIVERGED:
            self._dashboard.advice(advice)
            self._print(f"warning: {advice.cause}, step {advice.step}: {advice.text}")
            self._draw()

    def close(self) -> None:
        """Take the dashboard away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        if self._live is None:
            return
        began = time.monotonic()
        width, height = self._console.size
        self._live.update(Group(*self._dashboard.lines(width, height - 1)), refresh=True)
        ended = time.monotonic()
        self._next = ended + max(PAUSE, PAUSE_SHARE * (ended - began))
