"""`export_from_bundle`: the same model in today's form, from what a bundle has."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from charloom.bundle import (
    TRANSCRIPT,
    Bundle,
    BundleError,
    CellKind,
    DecoderKind,
    Manifest,
    read_bundle,
)
from charloom.bundle.chat import Turn
from charloom.cli import CommandError
from charloom.cli.training import export
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.device_decoder import DeviceDecoder
from charloom.engine.decoding.inspector import Inspector
from charloom.engine.decoding.invariance import plain_inputs, random_inputs, reading_inputs
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.export import ExportError, export_from_bundle
from charloom.export.bundle_parts import digests_of
from charloom.models import BUNDLED_MODEL
from tests.unit.bundle.bundle_files import change_manifest
from tests.unit.export.decoder_calls import one_row, zoneout_of
from tests.unit.export.random_bundle import SHA, without_weights
from tests.unit.training.training_runs import random_uniforms

WRITTEN_BEFORE = Path(__file__).resolve().parents[2] / "fixtures" / "written-by-0.1" / "bundle"


@pytest.fixture(scope="module")
def int8_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of schema 2 without weights and other decoders: its graphs are all that there is to make new ones of."""
    path = shutil.copytree(WRITTEN_BEFORE, tmp_path_factory.mktemp("schema-2") / "bundle")

    def leave_out(manifest: dict[str, Any]) -> None:
        for name in ("decoder.onnx", "decoder.ts", "weights.safetensors"):
            (path / name).unlink()
            del manifest["files"][name]
        del manifest["validation"]["tail"]["onnx-fp32"]

    change_manifest(path, leave_out)
    return path


@pytest.fixture(params=["whole", "int8 alone"])
def path(request: pytest.FixtureRequest, int8_alone: Path) -> Path:
    return WRITTEN_BEFORE if request.param == "whole" else int8_alone


def texts(bundle: Bundle, decoder: Decoder) -> list[str]:
    """A greedy one and a sampled one, 300 characters each."""
    prompt = bundle.vocabulary.encode("The ").tolist()
    inputs: dict[str, Any] = {"token": bundle.manifest.start_token, "forced": [*prompt, *[-1] * 300]}
    inputs["uniform"] = random_uniforms(3, len(inputs["forced"]))
    asked = [inputs | {"temperature": 0.0}, inputs | {"temperature": 0.8, "top_k": 20}]
    return [
        bundle.vocabulary.decode(decoder.run(one_row(decoder.shape, **one)).tokens[len(prompt) :, 0]) for one in asked
    ]


def test_bundles_of_schema_2_give_the_same_text_before_and_after(path: Path, tmp_path: Path) -> None:
    old = read_bundle(path)
    assert old.manifest.schema_version == 2
    manifest = export_from_bundle(old, tmp_path / "new")
    new = read_bundle(tmp_path / "new")
    assert new.manifest == manifest
    assert new.manifest.decoders == old.manifest.decoders
    for kind in old.manifest.decoders:
        before, after = open_decoder(old, kind=kind), open_decoder(new, kind=kind)
        assert texts(new, after) == texts(old, before)
        for inputs in (random_inputs(before, 7, 5), plain_inputs(before, 37, 20)):
            for one, other in zip(before.run(inputs), after.run(inputs), strict=True):
                assert np.array_equal(one, other)
        inputs = reading_inputs(before, 5, 4)  # graphs from before tell log-probabilities all the same
        assert np.array_equal(after.run(inputs).state, before.run(inputs).state)


def test_their_inspectors_show_the_same_before_and_after(path: Path, tmp_path: Path) -> None:
    old = read_bundle(path)
    export_from_bundle(old, tmp_path / "new")
    tokens = old.vocabulary.encode("The cat is an object.")
    cell = old.manifest.cell
    state = np.random.default_rng(1).uniform(-1, 1, (2, cell.layers, cell.hidden_size)).astype(np.float32)
    found = [Inspector(bundle).run(tokens, state) for bundle in (old, read_bundle(tmp_path / "new"))]
    assert found[0].state.shape == (len(tokens), 2, cell.layers, cell.hidden_size)
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_on_a_device_too_the_text_is_the_same(tmp_path: Path) -> None:
    old = read_bundle(WRITTEN_BEFORE)
    export_from_bundle(old, tmp_path / "new")
    before, after = (DeviceDecoder(path / "decoder.ts", "cpu", rows=8) for path in (WRITTEN_BEFORE, tmp_path / "new"))
    assert texts(old, before) == texts(old, after)


def test_the_manifest_is_of_schema_3_and_tells_the_same_of_the_model(path: Path, tmp_path: Path) -> None:
    old = read_bundle(path).manifest
    new = export_from_bundle(read_bundle(path), tmp_path / "new")
    assert (new.schema_version, new.cell.arrays) == (3, ("h", "c"))
    assert new.cell.gates == ("input", "forget", "candidate", "output")
    same = ("name", "unit", "vocabulary_size", "start_token", "cell", "weights_sha256", "training", "validation")
    for field in same:
        assert getattr(new, field) == getattr(old, field), field
    assert new.files.keys() == old.files.keys()
    assert new.digest != old.digest
    assert new.continues == (old.digest,)
    newer = export_from_bundle(read_bundle(tmp_path / "new"), tmp_path / "newer")
    assert newer.continues == (new.digest, old.digest)


def test_of_more_earlier_models_than_a_manifest_names_the_newest_are_kept(tmp_path: Path) -> None:
    old = read_bundle(WRITTEN_BEFORE)

    def after(digests: Sequence[str], **more: Any) -> Bundle:
        return replace(old, manifest=old.manifest.model_copy(update={"follows": tuple(digests), **more}))

    ours, a, b, c = ([f"{letter}{number:063x}" for number in range(64)] for letter in "0abc")
    named = [after(a[1:], digest=a[0], continues=tuple(b)), after(c[1:], digest=c[0])]
    options: dict[str, Any] = {
        "decoders": [DecoderKind.ONNX_FP32],
        "include_weights": False,
        "include_inspector": False,
    }
    export_from_bundle(after(ours, continues=tuple(b)), tmp_path / "new", follows=named, **options)
    new = read_bundle(tmp_path / "new").manifest
    assert new.continues == (old.manifest.digest, *b[:63])
    assert new.follows[:10] == (a[0], c[0], b[0], a[1], c[1], ours[0], b[1], a[2], c[2], ours[1])
    assert len(new.follows) == 64


def test_a_model_may_follow_the_one_before_it_for_ever() -> None:
    bundle = read_bundle(WRITTEN_BEFORE)
    digests = [bundle.manifest.digest]
    for night in range(100):
        made = dict(bundle.manifest) | {"name": f"night-{night}", "follows": digests_of([bundle], bundle.vocabulary)}
        bundle = replace(bundle, manifest=Manifest(**made).with_digest())
        digests.insert(0, bundle.manifest.digest)
    assert bundle.manifest.follows == tuple(digests[1:65])


def test_int8_matrices_are_taken_over_bit_for_bit(int8_alone: Path, tmp_path: Path) -> None:
    export_from_bundle(read_bundle(int8_alone), tmp_path / "new")
    old, new = (int8_matrices(path / "decoder.int8.onnx") for path in (int8_alone, tmp_path / "new"))
    assert old.keys() == new.keys() == {"layer_0", "layer_1", "head"}
    for name, matrix in old.items():
        assert np.array_equal(matrix, new[name]), name


def int8_matrices(path: Path) -> dict[str, np.ndarray]:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype == np.int8}


ONNX_KINDS = [DecoderKind.ONNX_INT8, DecoderKind.ONNX_FP32]


@pytest.mark.parametrize("cell", list(CellKind), ids=lambda cell: cell.value)
def test_without_weights_the_graphs_of_every_cell_come_out_as_they_were(cell: CellKind, tmp_path: Path) -> None:
    """Byte for byte, as the same version wrote them."""
    bundle = without_weights(tmp_path / "old", cell=cell, **zoneout_of(cell))
    new = export_from_bundle(bundle, tmp_path / "new", name="other", decoders=ONNX_KINDS)
    assert new.name == "other"
    assert new.files == {name: entry for name, entry in bundle.manifest.files.items() if name != "decoder.ts"}


NAMES = {
    CellKind.LSTM: {"layer_0", "layer_1", "bias_1"},
    CellKind.PEEPHOLE: {"layer_0", "layer_1", "bias_1", *(f"layer_{i}_see_{gate}" for i in (0, 1) for gate in "ifo")},
    CellKind.LAYER_NORM: {
        *("layer_0_hh", "layer_1_hh", "layer_1_ih", "bias_1", "layer_1_gain_ih"),
        *(f"layer_{i}_{part}" for i in (0, 1) for part in ("gain_hh", "gain_c", "shift_c")),
    },
}
"""What version 0.1 called them in its graphs."""


@pytest.mark.parametrize("cell", list(NAMES), ids=lambda cell: cell.value)
def test_the_names_of_matrices_are_those_of_earlier_graphs(cell: CellKind, tmp_path: Path) -> None:
    bundle = without_weights(tmp_path / "old", cell=cell)
    for file in ("decoder.onnx", "decoder.int8.onnx", "inspector.onnx"):
        arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(bundle.path / file).graph.initializer}
        numbers = {name for name, array in arrays.items() if array.dtype in (np.float32, np.int8) and array.ndim}
        products = {"head"} | {name for name in NAMES[cell] if arrays[name].ndim == 2}
        scales = set() if file == "decoder.onnx" else {f"{name}_scale" for name in products}
        assert numbers == NAMES[cell] | scales | {"table", "head", "head_bias"}


def test_figures_of_a_decoder_that_is_left_out_are_left_out(tmp_path: Path) -> None:
    bundle = without_weights(tmp_path / "old")
    kept = export_from_bundle(bundle, tmp_path / "new", decoders=[DecoderKind.ONNX_INT8])
    assert kept.validation == {"tail": {"checkpoint": 1.0, "onnx-int8": 1.1}}
    assert kept.decoders == (DecoderKind.ONNX_INT8,)


def test_an_inspector_is_made_where_there_was_none(tmp_path: Path) -> None:
    bundle = without_weights(tmp_path / "old")
    expected = bundle.manifest.files["inspector.onnx"]
    change_manifest(bundle.path, lambda manifest: manifest["files"].pop("inspector.onnx"))
    new = export_from_bundle(read_bundle(bundle.path), tmp_path / "new", decoders=ONNX_KINDS)
    assert new.files["inspector.onnx"] == expected


@pytest.mark.parametrize("include", [True, False])
def test_weights_are_taken_along_or_left_out(include: bool, tmp_path: Path) -> None:
    new = export_from_bundle(read_bundle(WRITTEN_BEFORE), tmp_path / "new", include_weights=include)
    assert ("weights.safetensors" in new.files) is include
    assert open_decoder(read_bundle(tmp_path / "new")).weights_sha256 == new.weights_sha256


def test_what_there_is_nothing_to_make_of_is_refused_with_the_reason(tmp_path: Path) -> None:
    target, bundle = tmp_path / "new", without_weights(tmp_path / "old")
    with pytest.raises(ExportError, match=r"has no weights\.safetensors, which a TorchScript decoder is made from"):
        export_from_bundle(bundle, target)
    bundled = read_bundle(BUNDLED_MODEL)
    with pytest.raises(ExportError, match=r"decoder\.onnx cannot be made: .* in the same precision"):
        export_from_bundle(bundled, target, decoders=[DecoderKind.ONNX_FP32])
    without_int8 = shutil.copytree(WRITTEN_BEFORE, tmp_path / "without-int8")
    change_manifest(without_int8, lambda manifest: manifest["files"].pop("decoder.int8.onnx"))
    with pytest.raises(ExportError, match="has no int8 decoder, and what one costs is measured"):
        export_from_bundle(read_bundle(without_int8), target, decoders=[DecoderKind.ONNX_INT8])
    change_manifest(bundle.path, lambda manifest: manifest["training"].pop("config"))
    with pytest.raises(BundleError, match=r"does not tell the settings of its training, field training\.config"):
        export_from_bundle(read_bundle(bundle.path), target, decoders=ONNX_KINDS)
    change_manifest(without_int8, lambda manifest: manifest.update(weights_sha256=SHA))
    with pytest.raises(ExportError, match="is not the one that field weights_sha256 names"):
        export_from_bundle(read_bundle(without_int8), target)
    assert not target.exists()


def test_a_template_of_chats_is_put_in_and_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"decoders": [DecoderKind.ONNX_FP32], "include_inspector": False}
    export_from_bundle(read_bundle(WRITTEN_BEFORE), tmp_path / "new", chat=TRANSCRIPT, **options)
    export_from_bundle(read_bundle(tmp_path / "new"), tmp_path / "newer", **options)
    assert read_bundle(tmp_path / "newer").manifest.chat == TRANSCRIPT


def test_a_template_that_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    chat = TRANSCRIPT.model_copy(update={"assistant": Turn(before="§: ", after="\n")})
    with pytest.raises(ExportError, match=r"assistant\.before is '§: ', and 1 character.* '§' \(U\+00A7\) at 0; write"):
        export_from_bundle(read_bundle(WRITTEN_BEFORE), tmp_path / "new", chat=chat)
    assert not (tmp_path / "new").exists()


def test_a_template_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text('{"user": 5}')
    arguments = ["export", "--from", str(WRITTEN_BEFORE), str(tmp_path / "new"), "--chat-template", str(file)]
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    with pytest.raises(CommandError, match=r"--chat-template .*chat.json: system: Field required"):
        export.run(parser.parse_args(arguments[1:]))
    assert not (tmp_path / "new").exists()
