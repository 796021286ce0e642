"""From a run to a bundle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from charloom.bundle import (
    INSPECTOR_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Bundle,
    ChatTemplate,
    DecoderKind,
    Manifest,
    Tokens,
    file_entry,
    write_manifest,
    write_vocabulary,
)
from charloom.export.bundle_parts import (
    cell_of,
    digests_of,
    new_directory,
    require_readable,
    write_decoder,
    write_weights,
)
from charloom.export.errors import ExportError
from charloom.export.inspector import build_inspector
from charloom.export.measure import decoder_tail_loss
from charloom.export.weights import decoder_weights
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
        model, vocabulary = trained.model, trained.vocabulary
        write_vocabulary(directory / VOCABULARY_FILE, vocabulary)
        weights_sha256 = write_weights(directory, model)
        manifest = Manifest(
            name=name,
            unit=vocabulary.unit,
            vocabulary_size=vocabulary.size,
            start_token=vocabulary.start_token,
            cell=cell_of(model, model.parameter_count()),
            weights_sha256=weights_sha256,
            files={},
            training={key: trained.facts[key] for key in _PROVENANCE if key in trained.facts},
            chat=chat,
            follows=earlier,
        )
        weights, kinds = decoder_weights(model), sorted(set(decoders), key=list(DecoderKind).index)
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
                    f"int8 costs {loss - reference:.5f} nats on the validation text, more than the limit of "
                    f"{INT8_LIMIT}; export without it: --decoders onnx-fp32,torchscript"
                )
        if not include_weights:
            (directory / WEIGHTS_FILE).unlink()
        validation_losses = {"tail": tail}
        if windows is not None:
            validation_losses["windows-256"] = {"checkpoint": windows}
        return write_manifest(
            directory,
            manifest.model_copy(
                update={
                    "files": {file.name: file_entry(file) for file in sorted(directory.iterdir())},
                    "validation": validation_losses,
                }
            ),
        )
