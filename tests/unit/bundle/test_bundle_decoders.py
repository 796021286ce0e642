"""`open_decoder`: a decoder is taken only if it is the one that the manifest describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from charloom.bundle import Bundle, BundleError, DecoderKind, read_bundle
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.invariance import random_inputs
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.export.onnx_graph import build_decoder
from charloom.export.torchscript import build_torchscript
from charloom.export.weights import decoder_weights
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from tests.unit.bundle.bundle_files import change_manifest, replace_file

Copied = Callable[[], Path]
KINDS = pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
OTHER_WEIGHTS = "a" * 64


def another_decoder(bundle: Bundle, kind: DecoderKind, directory: Path, weights_sha256: str, hidden: int = 0) -> bytes:
    """The decoder of a fresh model of the bundle's shape, or of another hidden size."""
    cell = bundle.manifest.cell
    config = ModelConfig(
        layers=cell.layers, hidden_size=hidden or cell.hidden_size, embedding_size=cell.embedding_size, dropout=0
    )
    weights = decoder_weights(CharLSTM(bundle.manifest.vocabulary_size, config).eval())
    metadata = {"weights_sha256": weights_sha256}
    if kind is not DecoderKind.TORCHSCRIPT:
        return build_decoder(weights, int8=kind is DecoderKind.ONNX_INT8, metadata=metadata).SerializeToString()
    torch.jit.save(build_torchscript(weights), directory / "another.ts", _extra_files=metadata)
    return (directory / "another.ts").read_bytes()


def refusal(bundle: Bundle, kind: DecoderKind | None = None, device: str = "cpu") -> str:
    with pytest.raises(BundleError) as caught:
        open_decoder(bundle, kind=kind, device=device)
    return str(caught.value)


@KINDS
def test_an_opened_decoder_has_the_shape_kind_and_weights_of_the_manifest(
    kind: DecoderKind, bundle: Bundle, decoders: dict[DecoderKind, Decoder]
) -> None:
    manifest, decoder = bundle.manifest, decoders[kind]
    assert decoder.shape == (2, manifest.cell.layers, manifest.cell.hidden_size, manifest.vocabulary_size)
    assert (decoder.kind, decoder.device) == (kind.value, "cpu")
    assert decoder.weights_sha256 == manifest.weights_sha256


def test_without_a_kind_the_first_decoder_of_the_manifest_is_opened(bundle: Bundle, copied: Copied) -> None:
    assert open_decoder(bundle).kind == "onnx-int8"
    path = copied()
    change_manifest(path, lambda manifest: manifest["files"].pop("decoder.int8.onnx"))
    assert open_decoder(read_bundle(path)).kind == "onnx-fp32"


@KINDS
def test_the_decoder_of_another_model_of_the_same_shape_is_refused(
    kind: DecoderKind, bundle: Bundle, copied: Copied, tmp_path: Path
) -> None:
    path = copied()
    replace_file(path, kind.file, another_decoder(bundle, kind, tmp_path, OTHER_WEIGHTS))
    swapped = read_bundle(path)
    assert f"{kind.file} was made from other weights than field weights_sha256" in refusal(swapped, kind)


@KINDS
def test_a_decoder_of_another_shape_is_refused_with_both_shapes(
    kind: DecoderKind, bundle: Bundle, copied: Copied, tmp_path: Path
) -> None:
    path = copied()
    replace_file(path, kind.file, another_decoder(bundle, kind, tmp_path, bundle.manifest.weights_sha256, hidden=8))
    message = refusal(read_bundle(path), kind)
    assert f"the file {kind.file} has sizes" in message
    assert "hidden=8" in message
    assert f"hidden={bundle.manifest.cell.hidden_size}" in message


@KINDS
def test_a_decoder_with_other_arrays_than_the_manifest_names_is_refused(kind: DecoderKind, copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest["cell"].update(arrays=["h"]))
    message = refusal(read_bundle(path), kind)
    assert f"the file {kind.file} has sizes Shape(arrays=2" in message
    assert "the manifest Shape(arrays=1" in message


@KINDS
@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_decoder_is_refused_by_name(kind: DecoderKind, content: bytes, copied: Copied) -> None:
    path = copied()
    replace_file(path, kind.file, content)
    assert f"the file {kind.file} is not a decoder" in refusal(read_bundle(path), kind)


def test_an_onnx_graph_with_other_inputs_is_refused_with_their_names(copied: Copied) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path = copied()
    replace_file(path, "decoder.onnx", model.SerializeToString())
    assert "its inputs are x; the contract has token, state, " in refusal(read_bundle(path), DecoderKind.ONNX_FP32)


@KINDS
def test_a_decoder_that_the_bundle_leaves_out_is_refused_with_the_ones_there(kind: DecoderKind, copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest["files"].pop(kind.file))
    others = ", ".join(other.value for other in DecoderKind if other is not kind)
    message = refusal(read_bundle(path), kind)
    assert f"it has no {kind.value} decoder (it has: {others})" in message
    assert f"--decoders {kind.value}" in message


def test_a_bundle_without_any_decoder_is_refused(copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: [manifest["files"].pop(kind.file) for kind in DecoderKind])
    assert "it has no decoder" in refusal(read_bundle(path))


def test_cuda_where_there_is_none_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is available; use --device cpu" in refusal(bundle, device="cuda")
    assert "no CUDA device" in refusal(bundle, DecoderKind.TORCHSCRIPT, "cuda")


@pytest.mark.parametrize("kind", [DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32])
def test_an_onnx_decoder_on_cuda_is_refused(kind: DecoderKind, bundle: Bundle) -> None:
    assert f"{kind.value} does not run on cuda" in refusal(bundle, kind, "cuda")


def test_a_copied_bundle_generates_what_the_original_does(copied: Copied, decoders: dict[DecoderKind, Decoder]) -> None:
    original = decoders[DecoderKind.ONNX_INT8]
    inputs = random_inputs(original, 4, 6)
    again = open_decoder(read_bundle(copied()), kind=DecoderKind.ONNX_INT8).run(inputs)
    for left, right in zip(original.run(inputs), again, strict=True):
        assert np.array_equal(left, right)
