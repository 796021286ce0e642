"""What a run reported before, read back from `log.jsonl` and `warnings.jsonl` in its directory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from charloom.training.files import CheckpointError, append_record, read_records, said_of, typed
from charloom.training.records import Advice, Evaluation
from charloom.training.run_directory import LOG_FILE, WARNINGS_FILE


def read_evaluations(run: Path) -> list[Evaluation]:
    """All evaluations, in their order; empty where there were none yet.

    Raises:
        CheckpointError: the log is damaged, or of another version.
    """
    return [_evaluation(run, line) for line in read_records(run / LOG_FILE)]


def read_warnings(run: Path) -> list[Advice]:
    """All warnings, in their order; empty where there were none.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    try:
        return [typed(Advice, line) for line in read_records(run / WARNINGS_FILE)]
    except (TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{run / WARNINGS_FILE} is of another version ({said_of(problem)}); remove it"
        ) from problem


def add_warning(run: Path, advice: Advice) -> None:
    """Append a warning to the file."""
    append_record(run / WARNINGS_FILE, asdict(advice))


def _evaluation(run: Path, line: dict[str, Any]) -> Evaluation:
    try:
        return typed(Evaluation, line)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{run / LOG_FILE} is of another version ({said_of(problem)})") from problem
