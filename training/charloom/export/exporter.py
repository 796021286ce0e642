"""From a run to a bundle."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save

from charloom.bundle import (
    INSPECTOR_FILE,
    MOST_EARLIER,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Bundle,
    Cell,
    ChatTemplate,
    DecoderKind,
    Manifest,
    Tokens,
    Vocabulary,
    file_entry,
    sha256_of,
    write_manifest,
    write_vocabulary,
)
from charloom.export.errors import ExportError
from charloom.export.inspector import build_inspector
from charloom.export.measure import decoder_tail_loss
from charloom.export.onnx_graph import build_decoder
from charloom.export.torchscript import build_torchscript
from charloom.export.weights import DecoderWeights, decoder_weights
from charloom.training.checkpoint import TrainedModel
from charloom.training.data.stream import Stream
from charloom.training.evaluate import tail_loss

INT8_LIMIT = 0.005
"""Most that int8 may cost on validation text, in nats per token."""
_PROVENANCE = ("corpus", "teachers", "config", "step", "epoch", "precision", "torch", "python")
"""What the manifest takes over from the run."""


def export_bundle(
    trained: TrainedModel,
    validation: Stream | Tokens,
    target: Path,
    *,
    name: str,
    decoders: Collection[DecoderKind] = tuple(DecoderKind),
    include_weights: bool = True,
    include_inspector: bool = True,
    windows: float | None = None,
    chat: ChatTemplate | None = None,
    follows: Sequence[Bundle] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write a bundle into the new directory `target`, its ONNX decoders measured on the validation tokens.

    Args:
        trained: model, vocabulary and provenance
        validation: tokens [M] that the model was not trained on
        target: directory to make; it must not exist or be empty
        name: name of the model in the bundle
        decoders: which forms to write
        include_weights: also write `weights.safetensors`
        include_inspector: also write `inspector.onnx`, in int8 if there is an int8 decoder
        windows: loss of the checkpoint by the `windows-256` protocol, if it is known
        chat: how messages become text, of a model that has learnt to converse
        follows: models of the same symbols whose place it takes
        tell: told one line per measurement

    Raises:
        ExportError: the directory is not empty, int8 costs more than `INT8_LIMIT`, one of `follows` has other
            symbols, the model lacks symbols of `chat`, or it is too large for ONNX.
    """
    require_readable(chat, trained.vocabulary)
    earlier = digests_of(follows, trained.vocabulary)
    with new_directory(target) as directory:
        return _write(
            trained,
            validation,
            directory,
            name,
            decoders,
            include_weights,
            include_inspector,
            windows,
            chat,
            earlier,
            tell,
        )


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


def _write(
    trained: TrainedModel,
    validation: Stream | Tokens,
    directory: Path,
    name: str,
    decoders: Collection[DecoderKind],
    include_weights: bool,
    include_inspector: bool,
    windows: float | None,
    chat: ChatTemplate | None,
    follows: tuple[str, ...],
    tell: Callable[[str], None],
) -> Manifest:
    model, vocabulary = trained.model, trained.vocabulary
    write_vocabulary(directory / VOCABULARY_FILE, vocabulary)
    weights_file = directory / WEIGHTS_FILE
    tensors = {key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}
    weights_file.write_bytes(save(tensors))
    weights_sha256 = sha256_of(weights_file)
    manifest = Manifest(
        name=name,
        unit=vocabulary.unit,
        vocabulary_size=vocabulary.size,
        start_token=vocabulary.start_token,
        cell=Cell(
            kind=model.config.cell,
            arrays=model.cell.arrays,
            gates=model.cell.gates,
            layers=model.config.layers,
            hidden_size=model.config.hidden_size,
            embedding_size=model.config.embedding_size,
            parameters=model.parameter_count(),
        ),
        weights_sha256=weights_sha256,
        files={},
        training={key: trained.facts[key] for key in _PROVENANCE if key in trained.facts},
        chat=chat,
        follows=follows,
    )
    weights, kinds = decoder_weights(model), sorted(decoders, key=list(DecoderKind).index)
    for kind in kinds:
        write_decoder(kind, weights, directory / kind.file, weights_sha256)
    if include_inspector:
        int8, metadata = DecoderKind.ONNX_INT8 in kinds, {"weights_sha256": weights_sha256}
        inspector = build_inspector(weights, int8=int8, metadata=metadata)
        (directory / INSPECTOR_FILE).write_bytes(inspector.SerializeToString())
    reference = tail_loss(model, validation)  # takes long, and so comes after all that may be refused
    tell(f"checkpoint   tail {reference:.4f} nats")
    tail = {"checkpoint": reference}
    for kind in kinds:
        if kind is DecoderKind.TORCHSCRIPT:
            tell(f"{kind.value:12} written")
            continue
        loss = decoder_tail_loss(directory / kind.file, manifest, validation)
        tail[kind.value] = loss
        tell(f"{kind.value:12} tail {loss:.4f} nats, {loss - reference:+.5f} against the checkpoint")
        if kind is DecoderKind.ONNX_INT8 and not loss - reference <= INT8_LIMIT:
            raise ExportError(
                f"int8 costs {loss - reference:.5f} nats on the validation text, more than the limit of {INT8_LIMIT}; "
                "export without it: --decoders onnx-fp32,torchscript"
            )
    if not include_weights:
        weights_file.unlink()
    return write_manifest(
        directory,
        manifest.model_copy(
            update={
                "files": {file.name: file_entry(file) for file in sorted(directory.iterdir())},
                "validation": {"tail": tail} | ({} if windows is None else {"windows-256": {"checkpoint": windows}}),
            }
        ),
    )


def write_decoder(kind: DecoderKind, weights: DecoderWeights, file: Path, weights_sha256: str) -> None:
    """Write one decoder, which repeats the hash of the weights that it was made from."""
    if kind is DecoderKind.TORCHSCRIPT:
        torch.jit.save(build_torchscript(weights), file, _extra_files={"weights_sha256": weights_sha256})
        return
    graph = build_decoder(weights, int8=kind is DecoderKind.ONNX_INT8, metadata={"weights_sha256": weights_sha256})
    file.write_bytes(graph.SerializeToString())
