"""`charloom export`, called in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charloom.bundle import read_bundle
from charloom.cli.main import main
from charloom.export import exporter
from charloom.models import BUNDLED_MODEL
from tests.integration.commands import Capture, refused

WRITTEN_BEFORE = Path(__file__).resolve().parents[1] / "fixtures" / "written-by-0.1" / "bundle"


def test_export_takes_a_name_some_decoders_and_no_weights(run_directory: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "some where"
    arguments = [str(run_directory), str(target), "--name", "fp", "--decoders", "onnx-fp32", "--no-weights"]
    assert main(["export", *arguments]) == 0
    manifest = read_bundle(target).manifest
    assert (manifest.name, set(manifest.files)) == ("fp", {"vocabulary.json", "decoder.onnx", "inspector.onnx"})
    assert "decoder.onnx" in capsys.readouterr().out
    target = tmp_path / "less"
    assert main(["export", str(run_directory), str(target), "--decoders", "torchscript", "--no-inspector"]) == 0
    assert set(read_bundle(target).manifest.files) == {"vocabulary.json", "weights.safetensors", "decoder.ts"}


def test_export_from_a_bundle_keeps_its_name_decoders_and_figures(tmp_path: Path, capsys: Capture) -> None:
    old, target = read_bundle(WRITTEN_BEFORE).manifest, tmp_path / "new"
    assert main(["export", "--from", str(WRITTEN_BEFORE), str(target)]) == 0
    assert f"next: charloom serve {target}" in capsys.readouterr().out
    new = read_bundle(target).manifest
    assert (old.schema_version, new.schema_version) == (2, 3)
    assert (new.name, new.decoders, new.validation) == (old.name, old.decoders, old.validation)
    less = ["--name", "less", "--decoders", "onnx-fp32", "--no-weights", "--no-inspector"]
    assert main(["export", str(WRITTEN_BEFORE), "--from", str(tmp_path / "less"), *less]) == 0
    assert read_bundle(tmp_path / "less").manifest.name == "less"
    assert {file.name for file in (tmp_path / "less").iterdir()} == {"manifest.json", "vocabulary.json", "decoder.onnx"}


def test_a_model_follows_others_of_its_symbols_and_those_that_they_follow(
    run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    few = ("--decoders", "onnx-fp32", "--no-weights", "--no-inspector")
    for name, follows in (("first", ()), ("second", ("first",)), ("third", ("second", "first"))):
        named = [word for one in follows for word in ("--follows", str(tmp_path / one))]
        assert main(["export", str(run_directory), str(tmp_path / name), *few, *named]) == 0
    first, second, third = (read_bundle(tmp_path / name).manifest for name in ("first", "second", "third"))
    assert (first.follows, second.follows) == ((), (first.digest,))
    assert third.follows == (second.digest, first.digest)
    assert main(["export", "--from", str(tmp_path / "second"), str(tmp_path / "again")]) == 0
    again = read_bundle(tmp_path / "again").manifest
    assert (again.continues, again.follows) == ((second.digest,), (first.digest,))


def test_a_model_cannot_follow_one_of_other_symbols(run_directory: Path, tmp_path: Path, capsys: Capture) -> None:
    error = refused(capsys, "export", run_directory, tmp_path / "new", "--follows", BUNDLED_MODEL.name)
    assert "has another vocabulary (65 symbols, unit character) than the new model (" in error
    assert "there is no" in refused(capsys, "export", run_directory, tmp_path / "new", "--follows", tmp_path / "none")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("source", [[], ["--from"]])
def test_a_chat_template_that_the_model_cannot_read_is_refused(
    source: list[str], run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    plain = {"before": "", "after": "\n"}
    chat = {"system": plain, "user": plain | {"before": "<|§|>"}, "assistant": plain}
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    given = ["--chat-template", tmp_path / "chat.json", *source]
    error = refused(capsys, "export", WRITTEN_BEFORE if source else run_directory, tmp_path / "new", *given)
    assert "cannot read the chat template: user.before is '<|§|>', and " in error
    assert "'§' (U+00A7) at 2" in error
    assert not (tmp_path / "new").exists()


def test_export_from_what_is_no_bundle_or_has_too_little_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert "there is no manifest.json" in refused(capsys, "export", "--from", tmp_path, tmp_path / "new")
    assert f"or: {BUNDLED_MODEL.name}" in refused(capsys, "export", "--from", tmp_path / "nowhere", tmp_path / "new")
    error = refused(capsys, "export", "--from", BUNDLED_MODEL.name, tmp_path / "new", "--decoders", "torchscript")
    assert "no weights.safetensors, which a TorchScript decoder is made from" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("decoders", ["onnx", "", "onnx-fp32,onnx-fp64"])
def test_export_refuses_unknown_decoders_and_names_the_known(
    decoders: str, run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    error = refused(capsys, "export", run_directory, tmp_path / "bundle", "--decoders", decoders)
    assert "choose from onnx-int8,onnx-fp32,torchscript" in error


def test_export_refuses_a_directory_that_is_not_empty(run_directory: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert "is not an empty directory" in refused(capsys, "export", run_directory, tmp_path)


def test_export_refuses_what_int8_would_hurt(
    run_directory: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "INT8_LIMIT", -1.0)
    error = refused(capsys, "export", run_directory, tmp_path / "bundle")
    assert "export without it: --decoders onnx-fp32,torchscript" in error
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_bad_name_in_one_line(run_directory: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "--name my model: " in refused(capsys, "export", run_directory, tmp_path / "bundle", "--name", "my model")


def test_export_refuses_damaged_losses(copied_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (copied_run / "losses.json").write_text("")
    assert "losses.json" in refused(capsys, "export", copied_run, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("directory", "name"),
    [("my model", "my-model"), ("modèle 3", "modele-3"), (".hidden", "hidden"), ("a" * 80, "a" * 64)],
)
def test_a_model_is_named_after_its_directory(
    directory: str, name: str, run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    target = tmp_path / directory
    assert main(["export", str(run_directory), str(target), "--decoders", "onnx-fp32", "--no-inspector"]) == 0
    assert read_bundle(target).manifest.name == name


def test_a_directory_that_gives_no_name_asks_for_one(run_directory: Path, tmp_path: Path, capsys: Capture) -> None:
    error = refused(capsys, "export", run_directory, tmp_path / "модель")
    assert "no name of a model can be made of 'модель'; give one with --name" in error
