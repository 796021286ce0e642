"""Checkpoints: one safetensors file each, tensors and JSON metadata, no pickle; replaced in one step."""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from charloom.bundle import MANIFEST_FILE, VOCABULARY_FILE, BundleError, Mask, Vocabulary, parse_json, read_vocabulary
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.config import TrainingConfig
from charloom.training.data.documents import Documents
from charloom.training.files import CheckpointError, replace_file, said_of
from charloom.training.run_directory import BEST_FILE, CLASSIFIER_FILE, LAST_FILE

SCHEMA = "charloom.checkpoint/2"
SHAPE = ("cell", "layers", "hidden_size", "embedding_size", "tie_weights")
"""The settings that decide which weights there are."""
Made = TypeVar("Made", bound=nn.Module)


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
    """Write a checkpoint in one step.

    Raises:
        CheckpointError: it cannot be written; what was saved there before is whole.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    try:
        content = save(tensors, metadata={"schema": SCHEMA, "facts": json.dumps(checkpoint.facts)})
    except SafetensorError as problem:
        raise CheckpointError(
            f"cannot write {path}: {problem}; what was saved there before, if anything, is whole and can be exported"
        ) from problem
    replace_file(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is missing, truncated, or of a foreign schema.
    """
    if not path.is_file():
        if path.name == BEST_FILE and (path.parent / LAST_FILE).is_file():
            raise CheckpointError(
                f"there is no checkpoint {path}: {path.parent} was stopped before its first evaluation; "
                "go on with it (`charloom train --resume`)"
            )
        raise CheckpointError(f"there is no checkpoint {path}{_mistaken(path.parent)}")
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
    return Checkpoint(tensors, _facts(metadata, path))


def _mistaken(run: Path) -> str:
    """What a directory without such a checkpoint is, and what to do."""
    if (run / CLASSIFIER_FILE).is_file():
        return f": {run} is a run of `charloom classify train`; `charloom classify evaluate` and `predict` use it"
    if (run / MANIFEST_FILE).is_file():
        return f": {run} is a bundle; give the directory of its run, or add --from to `charloom export`"
    return "; give the directory of a run that `charloom train` made"


def read_last(run: Path) -> tuple[Checkpoint, TrainingConfig]:
    """What a run is resumed from, and its settings; one that its version did not have is as it is by default.

    Raises:
        CheckpointError: there is no such checkpoint, it has weights alone, or settings that this version does not know.
    """
    path = run / LAST_FILE
    checkpoint = read_checkpoint(path)
    if "learner" not in checkpoint.facts:
        raise CheckpointError(
            f"{path} has weights alone, as {BEST_FILE} has, and cannot be resumed; "
            f"export it, or start a new run with --initial-weights {run}"
        )
    corpus = checkpoint.facts.get("corpus")
    if not isinstance(corpus, dict) or "sha256" not in corpus:
        raise CheckpointError(
            f"the checkpoint {path} does not tell which text it learnt, field corpus.sha256; restore it from a copy"
        )
    try:
        return checkpoint, TrainingConfig.model_validate(checkpoint.facts.get("config"))
    except ValidationError as problem:
        said = " ".join(str(problem).split())
        raise CheckpointError(
            f"the checkpoint {path} has no usable settings ({said}); resume it with the version that wrote it"
        ) from problem


def read_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint knows of itself, without its tensors.

    Raises:
        CheckpointError: it is truncated.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _facts(file.metadata() or {}, path)
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"the checkpoint {path} is damaged or cut short ({problem})") from problem


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        facts = parse_json(metadata.get("facts", "{}"))
        if not isinstance(facts, dict):
            raise ValueError("its facts are no JSON object")
    except ValueError as problem:
        raise CheckpointError(f"the checkpoint {path} is damaged ({problem})") from problem
    return facts


@dataclass(frozen=True)
class TrainedModel:
    """A model as a run left it, with what is known of it."""

    model: CharLSTM
    vocabulary: Vocabulary
    facts: dict[str, Any]
    """JSON: settings and provenance."""
    step: int
    """That the weights are from; 0 where a bundle does not tell"""
    mask: Mask
    """Which numbers were made alike in the text that it learnt"""
    documents: Documents
    """What a document was in that text"""

    @classmethod
    def of(cls, model: CharLSTM, vocabulary: Vocabulary, facts: dict[str, Any]) -> TrainedModel:
        """A model whose facts are checked; runs of version 0.1 have neither mask nor documents.

        Raises:
            LookupError, TypeError, ValueError: the facts are none; a later version may have other masks, for example.
        """
        config = facts["config"]
        mask, documents = config.get("mask", Mask.NONE), config.get("documents", Documents.STREAM)
        step = operator.index(facts["step"])
        return cls(model.eval(), vocabulary, facts, step, Mask(mask), Documents(documents))


def run_vocabulary(run: Path) -> Vocabulary:
    """The vocabulary of a run.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return read_vocabulary(run / VOCABULARY_FILE)
    except BundleError as problem:
        raise CheckpointError(
            f"run {run}: {problem.problem}; restore the file from a copy, or train again"
        ) from problem


def load_trained(run: Path, file: str = BEST_FILE) -> TrainedModel:
    """The model of a run directory, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the run has no such checkpoint, it does not fit its own settings, or the vocabulary is damaged.
    """
    checkpoint = read_checkpoint(run / file)
    vocabulary = run_vocabulary(run)
    try:
        told = checkpoint.facts["config"]
        known = [name for name in ModelConfig.model_fields if name in SHAPE or name in told]
        config = ModelConfig.model_validate({name: told[name] for name in known})
        model = model_of(vocabulary.size, config, checkpoint.group("model"), f"the weights in {run / file}")
        return TrainedModel.of(model, vocabulary, checkpoint.facts)
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise CheckpointError(f"the checkpoint {run / file} has no usable settings ({said_of(problem)})") from problem


def model_of(vocabulary_size: int, config: ModelConfig, weights: dict[str, Tensor], whose: str) -> CharLSTM:
    """A model with these weights; it takes no memory before they are seen to fit.

    Raises:
        CheckpointError: names or shapes differ.
    """
    return with_weights(lambda: CharLSTM(vocabulary_size, config), weights, whose)


def with_weights(make: Callable[[], Made], weights: dict[str, Tensor], whose: str) -> Made:
    """What `make` makes, with these weights; it takes no memory before they are seen to fit.

    Raises:
        CheckpointError: names or shapes differ.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter.*")
        load_weights(make(), weights, whose)
    model = make()
    load_weights(model, weights, whose)
    return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], whose: str) -> None:
    """Put weights into `model`.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as problem:
        raise CheckpointError(f"{whose} do not fit the settings: {' '.join(str(problem).split())}") from problem


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat, by `<parameter index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def require_form(group: str, tensors: dict[str, Tensor], wanted: dict[str, torch.Size]) -> None:
    """See that a group of a checkpoint's tensors has these names, each with real numbers of this shape.

    Raises:
        ValueError: it has not.
    """
    if tensors.keys() != wanted.keys():
        raise ValueError(f"the tensors {group} are {', '.join(tensors) or 'none'}, not {', '.join(wanted)}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape or not tensors[name].is_floating_point():
            found = f"{tuple(tensors[name].shape)} {tensors[name].dtype}"
            raise ValueError(f"the tensor {group}.{name} is {found}, not {tuple(shape)} of real numbers")


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back to `optimizer`, an Adam, what `optimizer_tensors` took.

    Raises:
        ValueError: these are not the tensors of its parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    if state and state.keys() != set(range(len(parameters))):  # before the first step there is none
        raise ValueError(f"the optimiser has state of parameters {sorted(state)}, and there are {len(parameters)}")
    for number, entry in state.items():
        shape = parameters[number].shape
        require_form(f"optimizer.{number}", entry, {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
