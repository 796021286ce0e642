from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from charloom.bundle import Bundle, DecoderKind, Tokens, read_bundle
from charloom.engine.calls.requests import GenerationRequest
from charloom.engine.decoding.decoder import Decoder
from charloom.engine.decoding.device_decoder import DeviceDecoder
from charloom.engine.decoding.inspector import Inspector
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.engine.engine import Engine
from charloom.export import INT8_LIMIT, ExportError, export_bundle, exporter, graph
from charloom.training.checkpoint import TrainedModel, load_trained
from charloom.training.evaluate import tail_loss
from charloom.training.run_directory import load_validation
from tests.oracles.naive_decoder import NaiveDecoder
from tests.unit.export.decoder_calls import naive, one_row
from tests.unit.training.training_runs import corpus_of, tiny_config, train


@pytest.fixture(scope="module")
def validation(run_directory: Path) -> Tokens:
    return load_validation(run_directory)[:3000]


@pytest.fixture
def trained(run_directory: Path) -> TrainedModel:
    return load_trained(run_directory)


def test_a_bundle_holds_all_files_of_the_contract_and_tells_where_it_comes_from(
    bundle: Bundle, run_directory: Path
) -> None:
    manifest = bundle.manifest
    files = {"vocabulary.json", "weights.safetensors", "decoder.onnx", "decoder.int8.onnx", "decoder.ts"}
    files.add("inspector.onnx")
    assert set(manifest.files) == files
    assert {file.name for file in bundle.path.iterdir()} == files | {"manifest.json"}
    facts = load_trained(run_directory).facts
    assert manifest.training["corpus"] == facts["corpus"]
    assert manifest.training["config"]["hidden_size"] == manifest.cell.hidden_size == 48
    assert manifest.training["step"] == facts["step"]
    assert manifest.weights_sha256 == manifest.files["weights.safetensors"].sha256
    assert manifest.cell.parameters == sum(a.size for a in load_file(bundle.path / "weights.safetensors").values())
    for field in ("name", "seconds", "plateau"):
        assert field not in manifest.training


def test_int8_costs_less_than_the_limit_and_fp32_nothing(
    bundle: Bundle, run_directory: Path, decoders: dict[DecoderKind, Decoder]
) -> None:
    """Measured with the kernels of this processor, as every export does; with VNNI or without."""
    tail = bundle.manifest.validation["tail"]
    assert tail.keys() == {"checkpoint", "onnx-int8", "onnx-fp32"}
    assert tail["onnx-int8"] - tail["checkpoint"] <= INT8_LIMIT == 0.005
    assert tail["onnx-fp32"] == pytest.approx(tail["checkpoint"], abs=1e-5)
    tokens, model = load_validation(run_directory), load_trained(run_directory).model
    assert tail["checkpoint"] == pytest.approx(tail_loss(model, tokens), abs=1e-6)
    some = tokens[:3000]  # TorchScript takes long for a step
    for kind, read, expected in (
        (DecoderKind.ONNX_INT8, tokens, tail["onnx-int8"]),
        (DecoderKind.ONNX_FP32, tokens, tail["onnx-fp32"]),
        (DecoderKind.TORCHSCRIPT, some, tail_loss(model, some)),
    ):  # measured here once more, through the engine, in one call
        found = decoders[kind].run(one_row(decoders[kind].shape, token=int(read[0]), forced=read[1:]))
        assert -float(found.logprob.mean(dtype=np.float64)) == pytest.approx(expected, abs=1e-5)


def test_the_weights_in_a_bundle_are_the_model_s(bundle: Bundle, trained: TrainedModel) -> None:
    """The naive decoder on the bundle's own weights says what the model says."""
    read = NaiveDecoder(load_file(bundle.path / "weights.safetensors"))
    call = one_row(read.shape, token=bundle.manifest.start_token, forced=[1, 2, 3, 4, 5])
    assert np.array_equal(read.run(call).logprob, naive(trained.model).run(call).logprob)


def test_a_model_that_int8_would_hurt_is_refused_and_nothing_is_left_behind(
    trained: TrainedModel, validation: Tokens, tmp_path: Path
) -> None:
    """One huge weight in each column of the head: the same amount on all logits, so fp32 does not mind at all."""
    before = tail_loss(trained.model, validation)
    trained.model.head.weight.data[:, 0] += 60
    assert tail_loss(trained.model, validation) == pytest.approx(before, abs=1e-4)
    target = tmp_path / "models" / "bundle"
    with pytest.raises(ExportError) as caught:
        export_bundle(trained, validation, target, name="outlier")
    assert "more than the limit of 0.005; export without it: --decoders onnx-fp32,torchscript" in str(caught.value)
    assert list(target.parent.iterdir()) == []
    as_advised = [DecoderKind.ONNX_FP32, DecoderKind.TORCHSCRIPT]
    export_bundle(trained, validation, target, name="outlier", decoders=as_advised)
    assert read_bundle(target).manifest.decoders == tuple(as_advised)


def test_the_limit_decides_and_an_empty_target_stays_as_it_was(
    trained: TrainedModel, validation: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "INT8_LIMIT", -1.0)
    target = tmp_path / "bundle"
    target.mkdir()
    with pytest.raises(ExportError, match=r"int8 costs -?0\.\d+ nats .* limit of -1\.0"):
        export_bundle(trained, validation, target, name="small")
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []


def test_a_model_of_two_symbols_is_served_with_every_decoder(tmp_path: Path) -> None:
    train(tiny_config(), corpus_of("abbabaab" * 300), tmp_path / "run")
    export_bundle(load_trained(tmp_path / "run"), load_validation(tmp_path / "run"), tmp_path / "bundle", name="two")
    bundle = read_bundle(tmp_path / "bundle")
    torchscript = bundle.decoder_file(DecoderKind.TORCHSCRIPT)
    decoders = [*(open_decoder(bundle, kind=kind) for kind in DecoderKind), DeviceDecoder(torchscript, "cpu", rows=4)]

    async def told(decoder: Decoder) -> list[int]:
        engine = Engine([(bundle, decoder)])
        try:
            request = GenerationRequest(max_tokens=8, logprobs=True, top_logprobs=5)
            found = await (await engine.generating.generate(request)).whole()
        finally:
            await engine.drain(0)
        return [len(one.top) for one in found.logprobs]

    for decoder in decoders:
        assert asyncio.run(told(decoder)) == [2] * 8


@pytest.mark.parametrize(
    ("kinds", "inspector"), [([DecoderKind.ONNX_INT8], False), ([DecoderKind.ONNX_FP32], False), ([], True)]
)
def test_a_model_that_is_too_large_for_onnx_is_refused_before_it_is_measured(
    kinds: list[DecoderKind],
    inspector: bool,
    trained: TrainedModel,
    validation: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph, "LARGEST_CONSTANTS", 10_000)
    options: dict[str, Any] = {"name": "large", "tell": pytest.fail, "include_inspector": inspector}
    with pytest.raises(ExportError, match=r"more than 10,000 bytes.*; export it with --decoders torchscript --no-insp"):
        export_bundle(trained, validation, tmp_path / "bundle", decoders=kinds, **options)
    assert list(tmp_path.iterdir()) == []
    as_advised = {"decoders": [DecoderKind.TORCHSCRIPT], "include_inspector": False}
    export_bundle(trained, validation, tmp_path / "bundle", name="large", **as_advised)
    assert set(read_bundle(tmp_path / "bundle").manifest.decoders) == {DecoderKind.TORCHSCRIPT}


def test_a_model_whose_loss_is_no_number_is_refused(trained: TrainedModel, validation: Tokens, tmp_path: Path) -> None:
    trained.model.head.bias.data[3] = torch.nan
    with pytest.raises(ExportError):
        export_bundle(trained, validation, tmp_path / "bundle", name="small", decoders=[DecoderKind.ONNX_INT8])
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_not_empty_is_refused_and_left_alone(
    trained: TrainedModel, validation: Tokens, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for target in (tmp_path / "bundle", tmp_path / "file"):
        with pytest.raises(ExportError, match="exists and is not an empty directory; choose another, or remove it"):
            export_bundle(trained, validation, target, name="small")
    assert (tmp_path / "bundle" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "keep"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("below", ["bundle", "deep/bundle"])
def test_a_target_below_a_file_is_refused_and_the_file_is_not_to_blame(
    below: str, trained: TrainedModel, validation: Tokens, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(
        ExportError, match=r"there can be no .*bundle, because a part of it is a file .*choose another$"
    ):
        export_bundle(trained, validation, tmp_path / "file" / below, name="small")


@pytest.mark.parametrize("kind", list(DecoderKind), ids=lambda kind: kind.value)
def test_a_bundle_of_one_decoder_without_weights_is_whole(
    kind: DecoderKind, bundle: Bundle, trained: TrainedModel, validation: Tokens, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    lines: list[str] = []
    manifest = export_bundle(
        trained,
        validation,
        target,
        name="one",
        decoders=[kind, kind],  # as `--decoders onnx-fp32,onnx-fp32` gives them: it is written and measured once
        include_weights=False,
        include_inspector=False,
        windows=1.5,
        tell=lines.append,
    )
    read = read_bundle(target)
    assert read.manifest == manifest
    assert set(manifest.files) == {"vocabulary.json", kind.file}
    assert manifest.weights_sha256 == bundle.manifest.weights_sha256  # the same model, though its file is left out
    assert manifest.validation["windows-256"] == {"checkpoint": 1.5}
    assert open_decoder(read).kind == kind.value
    assert len(lines) == 2
    assert lines[0].startswith("checkpoint")
    assert lines[1].startswith(kind.value)


@pytest.mark.parametrize("kinds", [list(DecoderKind), [DecoderKind.ONNX_FP32], [DecoderKind.TORCHSCRIPT]], ids=str)
def test_the_inspector_has_the_products_of_the_preferred_decoder(
    kinds: list[DecoderKind], trained: TrainedModel, validation: Tokens, tmp_path: Path
) -> None:
    export_bundle(trained, validation, tmp_path / "bundle", name="one", decoders=kinds)
    bundle = read_bundle(tmp_path / "bundle")
    decoder = open_decoder(bundle)
    found = Inspector(bundle).run(validation[:50], np.zeros((2, 2, 48), np.float32))
    expected = decoder.run(one_row(decoder.shape, token=int(validation[0]), forced=validation[1:51]))
    np.testing.assert_allclose(found.state[-1], expected.state[:, :, 0], rtol=2e-6, atol=1e-5)


def test_exporting_twice_gives_the_same_digest(trained: TrainedModel, validation: Tokens, tmp_path: Path) -> None:
    """A session's state belongs to a digest, so the same weights must not get another one."""
    first, second = (export_bundle(trained, validation, tmp_path / name, name="same").digest for name in "ab")
    assert first == second


def test_the_manifest_is_plain_json_without_nan(bundle: Bundle) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    content = json.loads((bundle.path / "manifest.json").read_text("utf-8"), parse_constant=refuse)
    assert content["schema_version"] == 3
    assert content["cell"]["arrays"] == ["h", "c"]
    assert content["cell"]["gates"] == ["input", "forget", "candidate", "output"]
