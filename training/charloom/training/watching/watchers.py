"""All watchers of a run behind one reporter, and the file of its warnings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from charloom.training.learner import TrainingDiverged
from charloom.training.records import DIVERGED, Advice, Evaluation, Progress, Watcher
from charloom.training.watching.advice import Adviser
from charloom.training.watching.history import add_warning


class Watchers:
    """A reporter that passes on to all watchers what it is told, and what an adviser makes of it.

    A watcher that fails, because its disk is full for example, is closed and left out from then on, and the others are
    warned: a run that took hours is worth more than what is shown of it.

    Args:
        watchers: who is told; they are closed in the end
        adviser: whom to ask for advice
    """

    def __init__(self, watchers: Sequence[Watcher], adviser: Adviser) -> None:
        self._watchers = list(watchers)
        self._adviser = adviser
        self._step = 0

    def __enter__(self) -> Watchers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, TrainingDiverged):
            self._advise([Advice(self._step, DIVERGED, 1.0, str(value))])
        self._tell(lambda watcher: watcher.close())

    def step(self, progress: Progress) -> None:
        """Pass on a step."""
        self._step = progress.step
        self._tell(lambda watcher: watcher.step(progress))
        self._advise(self._adviser.step(progress))

    def evaluation(self, evaluation: Evaluation) -> None:
        """Pass on an evaluation."""
        self._tell(lambda watcher: watcher.evaluation(evaluation))
        self._advise(self._adviser.evaluation(evaluation))

    def _advise(self, found: Sequence[Advice]) -> None:
        for advice in found:
            self._tell(lambda watcher, advice=advice: watcher.advice(advice))  # type: ignore[misc]

    def _tell(self, tell: Callable[[Watcher], None]) -> None:
        failed = []
        for watcher in list(self._watchers):
            try:
                tell(watcher)
            except Exception as problem:
                self._watchers.remove(watcher)
                with contextlib.suppress(Exception):
                    watcher.close()
                name, why = type(watcher).__name__, f"{type(problem).__name__}: {problem}"
                text = f"the run goes on without {name}, which failed: {why}"
                failed.append(Advice(self._step, "watcher failed", 1.0, text))
        self._advise(failed)


class WarningsFile:
    """Keeps the warnings of a run in its directory."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def step(self, progress: Progress) -> None:
        """Nothing to keep."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Nothing to keep: the run has a log of its own."""

    def advice(self, advice: Advice) -> None:
        """Add it to the file."""
        add_warning(self._run, advice)

    def close(self) -> None:
        """Nothing is open."""
