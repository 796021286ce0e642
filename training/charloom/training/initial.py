"""Starting from an earlier model, a run or a bundle: its vocabulary, its weights, or all of it as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from charloom.bundle import (
    MANIFEST_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleError,
    Mask,
    Vocabulary,
    read_bundle,
)
from charloom.network.config import ModelConfig
from charloom.training.checkpoint import (
    SHAPE,
    TrainedModel,
    load_trained,
    model_of,
    read_checkpoint,
    read_facts,
    run_vocabulary,
)
from charloom.training.files import CheckpointError, said_of
from charloom.training.run_directory import BEST_FILE


def initial_vocabulary(path: Path) -> tuple[Vocabulary, dict[str, Any]]:
    """The vocabulary of a run or bundle, and the settings that belong to it: unit, form, and mask if there is one.

    Raises:
        BundleError: the bundle is damaged.
        CheckpointError: it is neither a run nor a bundle, or the run's vocabulary is damaged.
    """
    if (path / MANIFEST_FILE).is_file():
        bundle = read_bundle(path)
        vocabulary, facts = bundle.vocabulary, bundle.manifest.training
    elif (path / VOCABULARY_FILE).is_file():
        vocabulary, best = run_vocabulary(path), path / BEST_FILE
        facts = read_facts(best) if best.is_file() else {}
    else:
        raise CheckpointError(
            f"{path} is neither a run nor a bundle: it has no {VOCABULARY_FILE}; "
            "give a directory that `charloom train` or `charloom export` made"
        )
    settings: dict[str, Any] = {"unit": vocabulary.unit, "normalise": vocabulary.normalisation}
    mask = _made_with(facts).get("mask", Mask.NONE)
    return vocabulary, settings if mask == Mask.NONE else settings | {"mask": mask}


def initial_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a bundle, or the best ones of a run, and the settings that they were made with: `SHAPE` and mask.

    Raises:
        BundleError: the bundle has no weights, or is damaged.
        CheckpointError: the run has none.
    """
    if not (path / MANIFEST_FILE).is_file():
        checkpoint = read_checkpoint(path / BEST_FILE)
        return checkpoint.group("model"), _made_with(checkpoint.facts)
    bundle = read_bundle(path)
    return bundle_weights(bundle), _made_with(bundle.manifest.training)


def weights_file(path: Path) -> Path:
    """The file with the weights of a bundle, or the best ones of a run."""
    return path / (WEIGHTS_FILE if (path / MANIFEST_FILE).is_file() else BEST_FILE)


def load_model(path: Path) -> TrainedModel:
    """The model of a bundle, or the best one of a run, on the CPU, in evaluation mode.

    Raises:
        BundleError: the bundle has no weights, is damaged, or labels texts.
        CheckpointError: the run has no model, or the weights do not fit the settings.
    """
    if not (path / MANIFEST_FILE).is_file():
        return load_trained(path)
    bundle = read_bundle(path)
    manifest = bundle.manifest
    if manifest.labelling is not None:
        raise BundleError(path, "its model labels texts and predicts no tokens", "give a language model")
    weights, whose = bundle_weights(bundle), f"the weights in {path / WEIGHTS_FILE}"
    model = model_of(manifest.network_tokens, network_config(bundle), weights, whose)
    try:
        return TrainedModel.of(model, bundle.vocabulary, {"step": 0} | manifest.training)
    except (LookupError, TypeError, ValueError) as problem:
        raise BundleError(path, f"{MANIFEST_FILE}, field training: {said_of(problem)}") from problem


def bundle_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The trained parameters in a bundle, by name.

    Raises:
        BundleError: it has none, or they cannot be read.
    """
    path = bundle.path
    if WEIGHTS_FILE not in bundle.manifest.files:
        raise BundleError(path, f"it has no {WEIGHTS_FILE}", "export it again without --no-weights, or give its run")
    try:
        return load_file(path / WEIGHTS_FILE)
    except SafetensorError as problem:
        raise BundleError(path, f"{WEIGHTS_FILE} cannot be read: {problem}") from problem


def network_config(bundle: Bundle) -> ModelConfig:
    """The network's settings, as the manifest tells them.

    Raises:
        BundleError: it does not, or no network has these.
    """
    cell, told = bundle.manifest.cell, bundle.manifest.training.get("config")
    if not isinstance(told, dict):
        raise BundleError(
            bundle.path,
            f"{MANIFEST_FILE} does not tell the settings of its training, field training.config",
            "export the model from its run",
        )
    sizes = {"layers": cell.layers, "hidden_size": cell.hidden_size, "embedding_size": cell.embedding_size}
    settings = {field: told[field] for field in ModelConfig.model_fields if field in told}
    try:
        return ModelConfig.model_validate(settings | sizes | {"cell": cell.kind})
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in ("training.config", *first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise BundleError(bundle.path, f"{MANIFEST_FILE}, field {field}: {said}") from problem


def _made_with(facts: dict[str, Any]) -> dict[str, Any]:
    config = facts.get("config")
    if not isinstance(config, dict):
        return {}
    shape = {name: config[name] for name in SHAPE if name in config}
    return shape | {"mask": config.get("mask", Mask.NONE.value)}  # runs of 0.1 have none
