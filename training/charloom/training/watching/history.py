"""What a run told before, read back from its directory.

Knows: `log.jsonl` and `warnings.jsonl`. Does not know: what is made of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charloom.training.checkpoint import LOG_FILE, WARNINGS_FILE, CheckpointError
from charloom.training.records import Activations, Advice, Evaluation


def read_evaluations(run: Path) -> list[Evaluation]:
    """All evaluations, in their order; empty where there were none yet.

    Raises:
        CheckpointError: the log is damaged, or of another version.
    """
    return [_evaluation(run, line) for line in _lines(run / LOG_FILE)]


def read_warnings(run: Path) -> list[Advice]:
    """All warnings, in their order; empty where there were none.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    try:
        return [Advice(**line) for line in _lines(run / WARNINGS_FILE)]
    except TypeError as problem:
        raise CheckpointError(f"{run / WARNINGS_FILE} is of another version ({problem}); remove it") from problem


def add_warning(run: Path, advice: Advice) -> None:
    """Keep a warning, behind those that are there."""
    with (run / WARNINGS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(advice), ensure_ascii=False) + "\n")


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        return
    for line in file.read_text("utf-8").split("\n"):  # and no other line break, of which samples may have some
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError as problem:
            raise CheckpointError(f"{file} is damaged ({problem}); remove the line: {line[:60]}") from problem


def _evaluation(run: Path, line: dict[str, Any]) -> Evaluation:
    gates = {
        layer: {kind: Activations(**found) for kind, found in kinds.items()}
        for layer, kinds in line.get("gates", {}).items()
    }
    try:
        return Evaluation(**line | {"gates": gates})
    except TypeError as problem:
        raise CheckpointError(f"{run / LOG_FILE} is of another version ({problem})") from problem
