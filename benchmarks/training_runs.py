"""Runs of `charloom train` that a benchmark makes in pieces: what is unfinished goes on when it is started again."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import CHARLOOM
from benchmarks.reporting import Budget, say
from charloom.training.files import replace_file
from charloom.training.run_directory import LAST_FILE, LOSSES_FILE

PLAN_FILE = "plan.json"
MINUTES = 85.0
"""Of a piece, by default; saving and measuring come on top."""
STOPPED = 130
"""The exit status of a run that was stopped and can go on."""


def claim(folder: Path, plan: dict[str, Any]) -> None:
    """Make a folder for runs, or see that those in it are of the same plan.

    Raises:
        SystemExit: they are of another one.
    """
    file, content = folder / PLAN_FILE, json.dumps(plan, sort_keys=True).encode()
    if file.is_file():
        if file.read_bytes() != content:
            raise SystemExit(
                f"{folder} has runs of another text or other flags (see {PLAN_FILE}); choose another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(file, content)


def has_ended(run: Path) -> bool:
    """Whether a run has made its last step, and measured its best weights."""
    return (run / LOSSES_FILE).is_file()


def train(run: Path, text: Path, flags: Sequence[str], budget: Budget, threads: int | None = None) -> bool:
    """Begin a run, or go on with it, until it ends or the budget is spent; returns whether it has ended.

    Raises:
        SystemExit: `charloom train` refused or failed; it said why.
    """
    if has_ended(run):
        return True
    if not budget.seconds:
        return False
    settings = ["--resume"] if (run / LAST_FILE).exists() else list(flags)
    given = ["train", str(text), "--run", str(run), *settings]
    if threads is not None:
        given += ["--threads", str(threads)]
    say(f"charloom {shlex.join(given)}")
    with subprocess.Popen([sys.executable, *CHARLOOM, *given], stdout=sys.stderr) as child:
        try:
            child.wait(budget.seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
    if child.returncode not in (0, STOPPED):
        raise SystemExit(f"the run in {run} ended with status {child.returncode}")
    return has_ended(run)
