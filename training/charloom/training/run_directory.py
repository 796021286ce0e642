"""The files of a run directory, and what it keeps beside its checkpoints: validation tokens, and losses.

It holds `last.safetensors` (everything that an exact resume needs) and `best.safetensors` (the weights with the lowest
validation loss), beside `config.json`, `vocabulary.json` and `log.jsonl`.
"""

from __future__ import annotations

import json
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from charloom.bundle import parse_json
from charloom.training.data.stream import Stream
from charloom.training.files import CheckpointError, replace_file, replacing

LAST_FILE, BEST_FILE, CONFIG_FILE, LOG_FILE = "last.safetensors", "best.safetensors", "config.json", "log.jsonl"
VALIDATION_FILE, VALIDATION_STARTS_FILE = "validation.npy", "validation-documents.npy"
LOSSES_FILE = "losses.json"
CLASSIFIER_FILE = "classifier.safetensors"
WARNINGS_FILE, REPORT_FILE = "warnings.jsonl", "report.html"


def save_validation(run: Path, validation: Stream) -> None:
    """Keep the validation tokens in the run, so that evaluation and export need nothing but the run."""
    _save_array(run / VALIDATION_FILE, validation.tokens)
    if validation.starts is None:
        (run / VALIDATION_STARTS_FILE).unlink(missing_ok=True)
    else:
        _save_array(run / VALIDATION_STARTS_FILE, validation.starts)


def load_validation(run: Path, vocabulary_size: int | None = None) -> Stream:
    """The validation tokens of a run, [M], and where documents start among them.

    Args:
        run: its directory
        vocabulary_size: tokens are to be below it

    Raises:
        CheckpointError: the run has none, or they are damaged.
    """
    try:
        tokens, path = _load_integers(run / VALIDATION_FILE), run / VALIDATION_STARTS_FILE
        if len(tokens) < 2:
            raise ValueError(f"{VALIDATION_FILE} has {len(tokens)} tokens, and a loss needs two")
        if tokens.min() < 0 or (vocabulary_size is not None and tokens.max() >= vocabulary_size):
            below = "" if vocabulary_size is None else f" below {vocabulary_size}"
            raise ValueError(
                f"{VALIDATION_FILE} has tokens from {tokens.min()} to {tokens.max()}, which are not all{below}"
            )
        starts = _load_integers(path) if path.exists() else None
        if starts is not None and not (
            len(starts) and starts[0] == 0 and starts[-1] < len(tokens) and (starts[1:] > starts[:-1]).all()
        ):
            raise ValueError(f"{path.name} has no ascending places of the {len(tokens)} tokens, the first one 0")
        return Stream(tokens, starts)
    except (OSError, ValueError, EOFError) as problem:
        raise CheckpointError(f"cannot read the validation tokens of {run}: {problem}") from problem


def _load_integers(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{path.name} is {array.dtype} of shape {array.shape}, not one row of whole numbers")
    return array


def _save_array(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as file:
        # Given the file itself, numpy would write past Python, and not notice a full disk.
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def save_losses(run: Path, step: int, losses: dict[str, float]) -> None:
    """Keep the losses of the best weights, by protocol, with the step that these weights are from."""
    replace_file(run / LOSSES_FILE, json.dumps({"step": step, "losses": losses}).encode())


def load_losses(run: Path, step: int) -> dict[str, float]:
    """The losses of the weights of this step; empty where they were not measured.

    Raises:
        CheckpointError: the file is damaged.
    """
    measured, losses = read_losses(run)
    return losses if measured == step else {}


def read_losses(run: Path) -> tuple[int, dict[str, float]]:
    """The step whose weights were measured last, and their losses, by protocol; empty where none were.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run / LOSSES_FILE
    if not path.is_file():
        return 0, {}
    try:
        content = parse_json(path.read_bytes())
        losses = {str(name): float(loss) for name, loss in content["losses"].items()}
        return operator.index(content["step"]), losses
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{path} is damaged ({problem}); run `charloom evaluate {run}` again") from problem
