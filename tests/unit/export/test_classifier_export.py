"""A classifier's bundle: what its decoders and its head say is what the trained network says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import (
    LABEL_HEAD_FILE,
    MANIFEST_FILE,
    Bundle,
    BundleError,
    ChatTemplate,
    DecoderKind,
    Manifest,
    Task,
    Unit,
    file_entry,
    read_bundle,
    read_label_head,
    write_manifest,
)
from charloom.cli.main import main
from charloom.cli.training.classifier_export import classifier_to_export
from charloom.engine.decoding.open_decoder import open_decoder
from charloom.export import ExportError, export_classifier, export_from_bundle
from charloom.export import classifier as classifier_module
from charloom.export.measure import final_hidden
from charloom.training.teachers import load_teachers
from tests.unit.export.classifier_runs import LABELS, TEXTS, classifier_bundle, classifier_of, write_run

STRANGE = "what é day ☃"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return classifier_bundle(tmp_path_factory.mktemp("classifiers"))


@pytest.mark.parametrize("unit", Unit)
def test_decoder_and_head_say_what_the_trained_network_says(unit: Unit, tmp_path: Path) -> None:
    trained = classifier_of(unit)
    bundle = classifier_bundle(tmp_path, unit)
    labelling, head = bundle.manifest.labelling, read_label_head(bundle)
    assert labelling is not None
    assert head is not None
    assert labelling.labels == LABELS
    texts = [*TEXTS, STRANGE]
    read = [bundle.vocabulary.encode_marked(text, labelling.unknown_token or 0).tokens for text in texts]
    for kind, close in ((DecoderKind.ONNX_FP32, 1e-5), (DecoderKind.ONNX_INT8, 0.05)):
        hidden = final_hidden(bundle.decoder_file(kind), bundle.manifest, read)
        found = [dict(zip(LABELS, head.probabilities(own), strict=True)) for own in hidden]
        for text, chances in zip(texts, found, strict=True):
            assert chances == pytest.approx(trained.predict(text).probabilities, abs=close), (kind, text)
        assert max(own["good"] for own in found) - min(own["good"] for own in found) > 0.1  # it depends on the text


def test_the_manifest_tells_task_labels_and_measured_scores(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.unit) == (Task.CLASSIFICATION, Unit.CHARACTER)
    assert manifest.labelling is not None
    assert manifest.labelling.max_length == 40
    assert set(manifest.labelling.test) == {"checkpoint", "onnx-int8", "onnx-fp32"}
    before, fp32 = manifest.labelling.test["checkpoint"], manifest.labelling.test["onnx-fp32"]
    assert fp32.accuracy == before.accuracy
    assert fp32.loss == pytest.approx(before.loss, abs=1e-5)
    assert manifest.decoders == tuple(DecoderKind)
    assert {LABEL_HEAD_FILE, "weights.safetensors"} <= manifest.files.keys()
    assert "inspector.onnx" not in manifest.files
    # a character that training has not seen has a row of its own behind the symbols
    assert manifest.labelling.unknown_token == manifest.vocabulary_size == manifest.network_tokens - 1
    for kind in DecoderKind:
        assert open_decoder(bundle, kind=kind).shape.vocabulary == manifest.network_tokens


def test_manifests_of_language_models_say_nothing_new() -> None:
    """So that the digests of bundles stay what they were, and earlier versions read new ones."""
    told = json.loads((Path(__file__).parents[2] / "fixtures/written-by-0.1").joinpath(_a_manifest()).read_text())
    assert Manifest.model_validate(told).computed_digest() == told["digest"]


def _a_manifest() -> Path:
    fixtures = Path(__file__).parents[2] / "fixtures/written-by-0.1"
    return next(fixtures.rglob(MANIFEST_FILE)).relative_to(fixtures)


def test_a_classifier_that_reads_in_both_directions_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", classifier_of(bidirectional=True))
    assert main(["export", str(run), str(tmp_path / "bundle")]) == 1
    assert "reads in both directions" in (error := capsys.readouterr().err)
    assert "train one without --bidirectional" in error
    assert not (tmp_path / "bundle").exists()


def test_the_command_exports_a_classifier_and_tells_what_each_precision_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", classifier_of())
    assert main(["export", str(run), str(tmp_path / "kind"), "--decoders", "onnx-fp32,onnx-int8,onnx-fp32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["checkpoint", "onnx-int8", "onnx-fp32", "wrote"]
    assert all("accuracy" in line and "nats per text" in line for line in lines[:3])
    assert read_bundle(tmp_path / "kind").manifest.name == "kind"
    chat = tmp_path / "chat.json"
    chat.write_text("{}")
    assert main(["export", str(run), str(tmp_path / "other"), "--chat-template", str(chat)]) == 1
    assert "a classifier writes nothing" in capsys.readouterr().err


def test_int8_that_costs_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", classifier_of())
    monkeypatch.setattr(classifier_module, "INT8_LABEL_LIMIT", -1.0)
    with pytest.raises(ExportError, match=r"int8 costs .* nats per text"):
        export_classifier(classifier_to_export(run), tmp_path / "bundle", name="labels")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("weights", [True, False])
def test_a_bundle_of_a_classifier_can_be_written_again(bundle: Bundle, tmp_path: Path, weights: bool) -> None:
    export_from_bundle(bundle, tmp_path / "first", include_weights=weights, decoders=[DecoderKind.ONNX_FP32])
    export_from_bundle(read_bundle(tmp_path / "first"), tmp_path / "again")
    again = read_bundle(tmp_path / "again")
    assert again.manifest.labelling is not None
    assert bundle.manifest.labelling is not None
    assert set(again.manifest.labelling.test) == {"checkpoint", "onnx-fp32"}
    assert again.manifest.labelling.labels == LABELS
    text = [bundle.vocabulary.encode(TEXTS[0])]
    before, after = (
        final_hidden(one.decoder_file(DecoderKind.ONNX_FP32), one.manifest, text) for one in (bundle, again)
    )
    assert np.array_equal(before, after)
    assert (again.path / LABEL_HEAD_FILE).read_bytes() == (bundle.path / LABEL_HEAD_FILE).read_bytes()


def test_what_only_language_models_have_is_refused_for_the_bundle_of_a_classifier(
    bundle: Bundle, tmp_path: Path
) -> None:
    turn = {"before": "", "after": ""}
    chat = ChatTemplate.model_validate({"system": turn, "user": turn, "assistant": turn})
    with pytest.raises(ExportError, match="--chat-template is for language models; a classifier writes nothing"):
        export_from_bundle(bundle, tmp_path / "new", chat=chat)
    with pytest.raises(ExportError, match="--follows is for language models; a classifier has no sessions"):
        export_from_bundle(bundle, tmp_path / "new", follows=[bundle])
    assert not (tmp_path / "new").exists()


def test_a_classifier_is_no_teacher_of_a_language_model(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="its model labels texts and predicts no tokens; give a language model"):
        load_teachers([bundle.path])


def _damaged(bundle: Bundle, directory: Path, change: object = None, head: object = None) -> Path:
    """A copy with other labels in the manifest, or with another head."""
    directory.mkdir()
    for file in bundle.path.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    if head is not None:
        np.save(directory / LABEL_HEAD_FILE, head, allow_pickle=False)  # type: ignore[arg-type]
    told = json.loads((directory / MANIFEST_FILE).read_text())
    told["files"][LABEL_HEAD_FILE] = file_entry(directory / LABEL_HEAD_FILE).model_dump()
    if isinstance(change, dict):
        told["labelling"] |= change
        (directory / MANIFEST_FILE).write_text(json.dumps(told))
    else:
        write_manifest(directory, Manifest.model_validate(told))
    return directory


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": ["alone"]}, "field labelling.labels: .*at least 2"),
        ({"labels": ["a", "a", "b"]}, "field labelling.labels: .*two labels are the same"),
        ({"labels": ["a", ""]}, "field labelling.labels"),
        ({"unknown_token": 999}, "field labelling: .*unknown_token is 999"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_name(
    bundle: Bundle, tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    with pytest.raises(BundleError, match=problem):
        read_bundle(_damaged(bundle, tmp_path / "bad", change))


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (np.zeros((13, 2), np.float32), "sizes \\(13, 2\\)"),
        (np.zeros((13, 3), np.float64), "float64"),
        (np.full((13, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path, head: object, problem: str) -> None:
    bad = read_bundle(_damaged(bundle, tmp_path / "bad", head=head))
    with pytest.raises(BundleError, match=problem):
        read_label_head(bad)


def test_a_head_that_is_no_array_is_refused_without_running_it(bundle: Bundle, tmp_path: Path) -> None:
    directory = _damaged(bundle, tmp_path / "bad")
    (directory / LABEL_HEAD_FILE).write_bytes(b"\x80\x04\x95cos\nsystem\n.")
    told = json.loads((directory / MANIFEST_FILE).read_text())
    told["files"][LABEL_HEAD_FILE] = file_entry(directory / LABEL_HEAD_FILE).model_dump()
    write_manifest(directory, Manifest.model_validate(told))
    with pytest.raises(BundleError, match="is no array"):
        read_label_head(read_bundle(directory))


def test_a_bundle_of_another_unit_than_its_vocabulary_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    directory = _damaged(bundle, tmp_path / "bad")
    told = json.loads((directory / MANIFEST_FILE).read_text())
    write_manifest(directory, Manifest.model_validate(told | {"unit": "byte"}))
    with pytest.raises(BundleError, match="field unit: says"):
        read_bundle(directory)
