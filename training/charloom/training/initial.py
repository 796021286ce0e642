"""Starting from an earlier model: its vocabulary, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from charloom.bundle import (
    MANIFEST_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    BundleError,
    Vocabulary,
    read_bundle,
    read_vocabulary,
)
from charloom.training.checkpoint import BEST_FILE, read_checkpoint
from charloom.training.files import CheckpointError

SHAPE = ("cell", "layers", "hidden_size", "embedding_size", "tie_weights")
"""The settings that decide which weights there are."""


def initial_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of a run or bundle.

    Raises:
        BundleError: the bundle is damaged, or the vocabulary.
        CheckpointError: it is neither a run nor a bundle.
    """
    if (path / MANIFEST_FILE).is_file():
        return read_bundle(path).vocabulary
    if (path / VOCABULARY_FILE).is_file():
        return read_vocabulary(path / VOCABULARY_FILE)
    raise CheckpointError(
        f"{path} is neither a run nor a bundle: it has no {VOCABULARY_FILE}; "
        "give a directory that `charloom train` or `charloom export` made"
    )


def initial_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a bundle, or the best ones of a run, and the settings of `SHAPE` that they were made with.

    Raises:
        BundleError: the bundle has no weights, or is damaged.
        CheckpointError: the run has none.
    """
    if not (path / MANIFEST_FILE).is_file():
        checkpoint = read_checkpoint(path / BEST_FILE)
        return checkpoint.group("model"), _shape(checkpoint.facts)
    bundle = read_bundle(path)
    if WEIGHTS_FILE not in bundle.manifest.files:
        raise BundleError(path, f"it has no {WEIGHTS_FILE}", "export it again without --no-weights, or give its run")
    try:
        return load_file(path / WEIGHTS_FILE), _shape(bundle.manifest.training)
    except SafetensorError as problem:
        raise BundleError(path, f"{WEIGHTS_FILE} cannot be read: {problem}") from problem


def _shape(facts: dict[str, Any]) -> dict[str, Any]:
    config = facts.get("config")
    return {name: config[name] for name in SHAPE if name in config} if isinstance(config, dict) else {}
