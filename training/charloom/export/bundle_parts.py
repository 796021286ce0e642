"""What the exports have in common: the directory of a bundle, what it holds, and which models it follows."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save

from charloom.bundle import (
    MOST_EARLIER,
    WEIGHTS_FILE,
    Bundle,
    Cell,
    ChatTemplate,
    DecoderKind,
    Vocabulary,
    sha256_of,
)
from charloom.export.errors import ExportError
from charloom.export.onnx_graph import build_decoder
from charloom.export.torchscript import build_torchscript
from charloom.export.weights import DecoderWeights
from charloom.network.model import CharLSTM


def digests_of(bundles: Sequence[Bundle], vocabulary: Vocabulary, known: Sequence[str] = ()) -> tuple[str, ...]:
    """The digests of models and of those before them, whose sessions another model of this vocabulary can take over.

    They are `MOST_EARLIER` at most: those of the bundles first, then the newest that each of them and `known` tell.

    Args:
        bundles: of the models
        vocabulary: of the model that takes over
        known: digests that it follows already, the newest first

    Raises:
        ExportError: one of them has other symbols.
    """
    for bundle in bundles:
        if bundle.vocabulary.to_json() != vocabulary.to_json():
            raise ExportError(
                f"{bundle.path} has another vocabulary ({bundle.vocabulary.size} symbols, "
                f"unit {bundle.vocabulary.unit.value}) than the new model ({vocabulary.size} symbols, "
                f"unit {vocabulary.unit.value}), so it cannot be one that the new model follows; leave it out"
            )
    named = [bundle.manifest.digest for bundle in bundles]
    told = [earlier for bundle in bundles for earlier in (bundle.manifest.continues, bundle.manifest.follows)]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*told, known))
    return tuple(dict.fromkeys(itertools.chain(named, filter(None, in_turn))))[:MOST_EARLIER]


def require_readable(chat: ChatTemplate | None, vocabulary: Vocabulary) -> None:
    """See that a model of this vocabulary can read what a template puts around messages.

    Raises:
        ExportError: it cannot.
    """
    if chat is not None and (problem := chat.problem(vocabulary)):
        raise ExportError(
            f"the model cannot read the chat template: {problem}; write the template with characters that the model "
            "has learnt"
        )


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill; it becomes `target` in one step at the end of the block, and is gone after an error.

    Raises:
        ExportError: `target` exists and is not an empty directory, or cannot be made.
    """
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} exists and is not an empty directory; choose another, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as problem:
        raise ExportError(
            f"there can be no {target}, because a part of it is a file and not a directory; choose another"
        ) from problem
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        directory = Path(temporary) / "bundle"
        directory.mkdir()
        yield directory
        try:
            os.rename(directory, target)  # it takes the place of an empty directory and of nothing else
        except OSError as problem:
            raise ExportError(f"{target} cannot be made ({problem.strerror}); choose another directory") from problem


def cell_of(model: CharLSTM, parameters: int) -> Cell:
    """What a manifest says of a network, with so many trained values."""
    return Cell(
        kind=model.config.cell,
        arrays=model.cell.arrays,
        gates=model.cell.gates,
        layers=model.config.layers,
        hidden_size=model.config.hidden_size,
        embedding_size=model.config.embedding_size,
        parameters=parameters,
    )


def write_weights(directory: Path, model: CharLSTM) -> str:
    """Write the trained parameters; returns the sha256 of their file, which each decoder repeats."""
    file = directory / WEIGHTS_FILE
    file.write_bytes(save({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}))
    return sha256_of(file)


def write_decoder(kind: DecoderKind, weights: DecoderWeights, file: Path, weights_sha256: str) -> None:
    """Write one decoder, which repeats the hash of the weights that it was made from."""
    if kind is DecoderKind.TORCHSCRIPT:
        torch.jit.save(build_torchscript(weights), file, _extra_files={"weights_sha256": weights_sha256})
        return
    graph = build_decoder(weights, int8=kind is DecoderKind.ONNX_INT8, metadata={"weights_sha256": weights_sha256})
    file.write_bytes(graph.SerializeToString())
