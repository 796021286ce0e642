"""From a bundle to a bundle: the same model in today's graphs and today's manifest, whichever version wrote it.

`weights.safetensors` makes every decoder. Where a bundle leaves it out, a graph is made again from the numbers of one
of its graphs, int8 ones as they are: graphs of every version give the matrices, scales and vectors of a network the
same names. Nothing is measured, so the figures of the manifest stay what they were; and so int8 is not made where the
bundle does not have it already. The digest is a new one, and the new manifest names the old one, whose sessions go on
with the new bundle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from charloom.bundle import (
    INSPECTOR_FILE,
    LABEL_HEAD_FILE,
    MOST_EARLIER,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleError,
    Cell,
    ChatTemplate,
    DecoderKind,
    Manifest,
    file_entry,
    write_manifest,
)
from charloom.export.bundle_parts import digests_of, new_directory, require_readable, write_decoder
from charloom.export.errors import ExportError
from charloom.export.inspector import build_inspector
from charloom.export.onnx_graph import build_decoder
from charloom.export.weights import DecoderWeights, decoder_weights
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import model_of
from charloom.training.initial import bundle_weights, network_config


def export_from_bundle(
    bundle: Bundle,
    target: Path,
    *,
    name: str | None = None,
    decoders: Collection[DecoderKind] | None = None,
    include_weights: bool = True,
    include_inspector: bool = True,
    chat: ChatTemplate | None = None,
    follows: Sequence[Bundle] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the model of a bundle into the new directory `target`.

    Args:
        bundle: a checked bundle
        target: directory to make; it must not exist or be empty
        name: name of the model in the new bundle; None = the same
        decoders: which forms to write; None = those that the bundle has
        include_weights: also copy `weights.safetensors` where the bundle has it
        include_inspector: also write `inspector.onnx`, in int8 if there is an int8 decoder; not of a classifier
        chat: how messages become text; None = as in the bundle
        follows: other models of the same symbols whose place it takes, beside those that the bundle names
        tell: told one line per file

    Raises:
        ExportError: the directory is not empty, the bundle does not have what a file is made from, one of `follows`
            has other symbols, the model lacks symbols of `chat`, or it labels texts and there is `chat` or `follows`.
        CheckpointError: its weights do not fit the settings in its manifest.
        BundleError: a file of it cannot be read, or its manifest tells settings that no network has.
    """
    old = bundle.manifest
    if old.labelling is not None and chat is not None:
        raise ExportError("--chat-template is for language models; a classifier writes nothing")
    if old.labelling is not None and follows:
        raise ExportError("--follows is for language models; a classifier has no sessions")
    kinds = old.decoders if decoders is None else sorted(set(decoders), key=list(DecoderKind).index)
    if DecoderKind.ONNX_INT8 in kinds and DecoderKind.ONNX_INT8 not in old.decoders:
        raise ExportError(
            f"{bundle.path} has no int8 decoder, and what one costs is measured on the validation text of a run; "
            "export it from the run, or leave it out with --decoders"
        )
    require_readable(chat, bundle.vocabulary)
    earlier = digests_of(follows, bundle.vocabulary, old.follows)
    source = _Source(bundle)
    with new_directory(target) as directory:
        copied = [VOCABULARY_FILE, *([WEIGHTS_FILE] if include_weights and WEIGHTS_FILE in old.files else [])]
        labelling, left_out = old.labelling, {kind.value for kind in DecoderKind if kind not in kinds}
        if labelling is not None:
            copied.append(LABEL_HEAD_FILE)
            measured = {name: scores for name, scores in labelling.test.items() if name not in left_out}
            labelling = labelling.model_copy(update={"test": measured})
        for file in copied:
            (directory / file).write_bytes((bundle.path / file).read_bytes())
        for kind in kinds:
            source.write_decoder(kind, directory / kind.file)
            tell(f"{kind.value:12} written")
        if include_inspector and labelling is None:
            source.write_inspector(directory / INSPECTOR_FILE, int8=DecoderKind.ONNX_INT8 in kinds)
        return write_manifest(
            directory,
            Manifest(
                name=name or old.name,
                unit=old.unit,
                vocabulary_size=old.vocabulary_size,
                start_token=old.start_token,
                cell=Cell.model_validate(dict(old.cell)),
                weights_sha256=old.weights_sha256,
                files={file.name: file_entry(file) for file in sorted(directory.iterdir())},
                training=old.training,
                validation={
                    protocol: {measured: loss for measured, loss in losses.items() if measured not in left_out}
                    for protocol, losses in old.validation.items()
                },
                chat=old.chat if chat is None else chat,
                labelling=labelling,
                continues=(old.digest, *old.continues)[:MOST_EARLIER],
                follows=earlier,
            ),
        )


class _Source:
    """Where the numbers of a bundle's model come from."""

    def __init__(self, bundle: Bundle) -> None:
        self._path, manifest = bundle.path, bundle.manifest
        self._weights_sha256 = manifest.weights_sha256
        self._whole = WEIGHTS_FILE in manifest.files
        config = network_config(bundle)
        if self._whole:
            if manifest.files[WEIGHTS_FILE].sha256 != manifest.weights_sha256:
                raise ExportError(f"{bundle.path}: {WEIGHTS_FILE} is not the one that field weights_sha256 names")
            weights, whose = bundle_weights(bundle), f"the weights in {self._path / WEIGHTS_FILE}"
            model = model_of(manifest.network_tokens, config, weights, whose)
        else:
            model = CharLSTM(manifest.network_tokens, config)
        self._weights: DecoderWeights = decoder_weights(model.eval())
        """If not whole, of the right shapes and nothing more."""
        files = [kind.file for kind in manifest.decoders if kind is not DecoderKind.TORCHSCRIPT]
        self._graphs = [*files, *([INSPECTOR_FILE] if INSPECTOR_FILE in manifest.files else [])]

    def write_decoder(self, kind: DecoderKind, file: Path) -> None:
        if self._whole:
            write_decoder(kind, self._weights, file, self._weights_sha256)
            return
        if kind is DecoderKind.TORCHSCRIPT:
            raise ExportError(
                f"{self._path} has no {WEIGHTS_FILE}, which a TorchScript decoder is made from; "
                "leave it out with --decoders, or export the model from its run"
            )
        metadata = {"weights_sha256": self._weights_sha256}
        made = build_decoder(self._weights, int8=kind is DecoderKind.ONNX_INT8, metadata=metadata)
        self._fill(made, kind.file)
        file.write_bytes(made.SerializeToString())

    def write_inspector(self, file: Path, *, int8: bool) -> None:
        made = build_inspector(self._weights, int8=int8, metadata={"weights_sha256": self._weights_sha256})
        if not self._whole:
            self._fill(made, INSPECTOR_FILE)
        file.write_bytes(made.SerializeToString())

    def _fill(self, made: onnx.ModelProto, file: str) -> None:
        """Give a graph the numbers of the first of the bundle's graphs that has them all."""
        wanted = {tensor.name: tensor for tensor in _numbers(made)}
        for name in self._graphs:
            found = {tensor.name: tensor for tensor in _numbers(_graph(self._path, name))}
            if all(key in found and _form(found[key]) == _form(tensor) for key, tensor in wanted.items()):
                for key, tensor in wanted.items():
                    tensor.CopyFrom(found[key])
                return
        raise ExportError(
            f"{file} cannot be made: {self._path} has no {WEIGHTS_FILE}, and none of its graphs "
            f"({', '.join(self._graphs) or 'there are none'}) has the same matrices in the same precision; "
            "leave the file out with --decoders or --no-inspector, or export the model from its run"
        )


def _graph(bundle: Path, name: str) -> onnx.ModelProto:
    try:
        return onnx.load(bundle / name, load_external_data=False)  # no hash covers what is outside of the file
    except Exception as problem:  # protobuf's errors, which are not this part's to import
        raise BundleError(bundle, f"the file {name} is no ONNX file: {problem}") from problem


def _numbers(graph: onnx.ModelProto) -> Iterable[TensorProto]:
    """What a graph holds of a network. All other constants of it are whole numbers or have no axes."""
    kinds = (TensorProto.FLOAT, TensorProto.INT8)
    tensors = graph.graph.initializer
    return (tensor for tensor in tensors if tensor.data_type in kinds and tensor.dims and not tensor.external_data)


def _form(tensor: TensorProto) -> tuple[int, ...]:
    """Element type and size."""
    return tuple(itertools.chain([tensor.data_type], tensor.dims))
