"""Checkpoints: one safetensors file each, tensors and JSON metadata, no pickle; replaced in one step.

Knows: names of tensors, files. Does not know: what training does with them.

A run directory holds `last.safetensors` (everything that an exact resume needs) and `best.safetensors` (the weights
with the lowest validation loss), beside `config.json`, `vocabulary.json` and `log.jsonl`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from charloom.bundle import VOCABULARY_FILE, Tokens, Vocabulary, read_vocabulary
from charloom.training.config import ModelConfig
from charloom.training.model import CharLSTM

SCHEMA = "charloom.checkpoint/1"
LAST_FILE, BEST_FILE, CONFIG_FILE, LOG_FILE = "last.safetensors", "best.safetensors", "config.json", "log.jsonl"
VALIDATION_FILE, LOSSES_FILE = "validation.npy", "losses.json"


class CheckpointError(Exception):
    """A checkpoint or run directory cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint file holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """JSON: settings, step, losses, provenance."""

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix.`, the prefix taken off."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and put it in place in one step: a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, temporary, metadata={"schema": SCHEMA, "facts": json.dumps(checkpoint.facts)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is missing, truncated, or of a foreign schema.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; start the run without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        other = BEST_FILE if path.name == LAST_FILE else LAST_FILE
        raise CheckpointError(
            f"the checkpoint {path} is damaged or cut short ({problem}); restore it from a copy, "
            f"export {other} if it is whole, or start a new run"
        ) from problem
    if metadata.get("schema") != SCHEMA:
        raise CheckpointError(f"{path} has schema {metadata.get('schema')!r}, this version reads {SCHEMA!r}")
    return Checkpoint(tensors, json.loads(metadata["facts"]))


@dataclass(frozen=True)
class TrainedModel:
    """A model as a run left it, with what is known of it."""

    model: CharLSTM
    vocabulary: Vocabulary
    facts: dict[str, Any]


def load_trained(run: Path, file: str = BEST_FILE) -> TrainedModel:
    """The model of a run directory, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the run has no such checkpoint, or it does not fit its own settings.
    """
    checkpoint = read_checkpoint(run / file)
    vocabulary = read_vocabulary(run / VOCABULARY_FILE)
    settings = {name: checkpoint.facts["config"][name] for name in ModelConfig.model_fields}
    model = CharLSTM(vocabulary.size, ModelConfig.model_validate(settings))
    load_weights(model, checkpoint, run / file)
    return TrainedModel(model.eval(), vocabulary, checkpoint.facts)


def save_validation(run: Path, tokens: Tokens) -> None:
    """Keep the validation tokens in the run, so that evaluation and export need nothing but the run."""
    np.save(run / VALIDATION_FILE, tokens, allow_pickle=False)


def load_validation(run: Path) -> Tokens:
    """The validation tokens of a run, [M].

    Raises:
        CheckpointError: the run has none.
    """
    try:
        tokens: Tokens = np.load(run / VALIDATION_FILE, allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"cannot read the validation tokens of {run}: {problem}") from problem
    return tokens


def load_weights(model: CharLSTM, checkpoint: Checkpoint, path: Path) -> None:
    """Put a checkpoint's weights into `model`.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        model.load_state_dict(checkpoint.group("model"))
    except RuntimeError as problem:
        raise CheckpointError(f"the weights in {path} do not fit the run's settings: {problem}") from problem


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat, by `<parameter index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back to `optimizer` what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
