from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charloom.bundle import Bundle, BundleError, DecoderKind, read_bundle
from charloom.training.run_directory import CLASSIFIER_FILE, LAST_FILE
from tests.unit.bundle.bundle_files import change_manifest, replace_file

Copied = Callable[[], Path]


def refusal(path: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    error = caught.value
    assert str(error) == f"bundle {path}: {error.problem}; {error.advice}"
    assert error.advice
    return error


def test_an_untouched_copy_is_the_same_bundle(bundle: Bundle, copied: Copied) -> None:
    path = copied()
    read = read_bundle(str(path))
    assert read.manifest == bundle.manifest
    assert read.path == path
    assert read.manifest.decoders == tuple(DecoderKind)
    assert read.vocabulary.size == read.manifest.vocabulary_size


def test_a_missing_directory_is_refused_with_advice(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nothing")
    assert "there is no manifest.json" in error.problem
    assert "charloom export" in error.advice


def test_a_directory_without_manifest_is_refused_with_advice(copied: Copied) -> None:
    path = copied()
    (path / "manifest.json").unlink()
    error = refusal(path)
    assert "there is no manifest.json" in error.problem
    assert "charloom export" in error.advice


@pytest.mark.parametrize("weights", [LAST_FILE, CLASSIFIER_FILE])
def test_a_run_is_told_from_other_directories(tmp_path: Path, weights: str) -> None:
    (tmp_path / weights).touch()
    assert refusal(tmp_path).advice == "it is a run; give the directory that `charloom export` makes of it"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"name: small"])
def test_a_manifest_that_is_not_json_is_refused(content: bytes, copied: Copied) -> None:
    path = copied()
    (path / "manifest.json").write_bytes(content)
    assert refusal(path).problem.startswith("manifest.json cannot be read")


NO_VALUE = [
    (b"[" * 100_000 + b"]" * 100_000, "it is nested more than 32 levels"),
    (b'{"a":' * 500 + b"1" + b"}" * 500, "it is nested more than 32 levels"),
    (b'{"name": "\\ud800"}', "no UTF-8 can carry the character '\\ud800', half of a surrogate pair"),
    (b'{"\\udfff": 1}', "no UTF-8 can carry the character '\\udfff', half of a surrogate pair"),
    (b'"' + b"x" * 2**26 + b'"', f"it has {2**26 + 2} bytes, more than "),
]


@pytest.mark.parametrize("name", ["manifest.json", "vocabulary.json"])
@pytest.mark.parametrize(("content", "problem"), NO_VALUE, ids=[problem for _, problem in NO_VALUE])
def test_json_too_deep_too_large_or_of_half_characters_is_refused(
    name: str, content: bytes, problem: str, copied: Copied
) -> None:
    path = copied()
    if name == "manifest.json":
        (path / name).write_bytes(content)
    else:
        replace_file(path, name, content)
    found = refusal(path).problem
    assert found.startswith(name)
    assert problem in found


def test_a_symbol_that_is_half_a_surrogate_pair_is_refused(bundle: Bundle, copied: Copied) -> None:
    path = copied()
    symbols = [*json.loads((path / "vocabulary.json").read_text("utf-8"))["symbols"][:-1], "\ud800"]
    replace_file(path, "vocabulary.json", json.dumps({"unit": "character", "symbols": symbols}).encode())
    assert (
        "vocabulary.json is not a vocabulary: no UTF-8 can carry the character '\\ud800', half" in refusal(path).problem
    )


@pytest.mark.parametrize("name", ["vocabulary.json", "weights.safetensors", "decoder.onnx", "decoder.ts"])
def test_a_missing_file_is_named(name: str, copied: Copied) -> None:
    path = copied()
    (path / name).unlink()
    assert refusal(path).problem == f"the file {name} is missing"


@pytest.mark.parametrize("name", ["vocabulary.json", "weights.safetensors", "decoder.int8.onnx", "decoder.ts"])
def test_a_file_with_one_changed_bit_is_named(name: str, copied: Copied) -> None:
    path = copied()
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    assert refusal(path).problem == f"the file {name} was changed: its sha256 is not the manifest's"


def test_a_file_that_was_cut_short_is_named(copied: Copied) -> None:
    path = copied()
    content = (path / "decoder.onnx").read_bytes()
    (path / "decoder.onnx").write_bytes(content[:-1])
    assert "the file decoder.onnx was changed" in refusal(path).problem


@pytest.mark.parametrize("version", [0, 1, 4, "x", "1", None])
def test_a_foreign_schema_version_is_refused_with_what_to_do(version: object, copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest.update(schema_version=version))
    error = refusal(path)
    assert error.problem.startswith(
        f"manifest.json, field schema_version: {version!r} is not one that this version reads: (2, 3)"
    )
    assert "install the version that wrote it" in error.advice


def test_a_manifest_that_is_no_object_has_no_schema_version(copied: Copied) -> None:
    path = copied()
    (path / "manifest.json").write_text("[1]")
    assert "field schema_version: None" in refusal(path).problem


FIELD_CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("vocabulary_size", lambda m: m.update(vocabulary_size="many")),
    ("vocabulary_size", lambda m: m.pop("vocabulary_size")),
    ("unit", lambda m: m.update(unit="word")),
    ("name", lambda m: m.update(name="../etc")),
    ("cell.layers", lambda m: m["cell"].update(layers=0)),
    ("cell.hidden_size", lambda m: m["cell"].update(hidden_size=[1])),
    ("cell.kind", lambda m: m["cell"].update(kind="rnn")),
    ("cell", lambda m: m["cell"].pop("arrays")),
    ("cell", lambda m: m["cell"].pop("gates")),
    ("cell", lambda m: m.update(schema_version=2)),
    ("cell.arrays", lambda m: m["cell"].update(arrays=[])),
    ("files", lambda m: m.update(files=[])),
    ("files.decoder.ts.sha256", lambda m: m["files"]["decoder.ts"].update(sha256="abc")),
    ("files.decoder.ts.bytes", lambda m: m["files"]["decoder.ts"].update(bytes=-1)),
    ("surprise", lambda m: m.update(surprise=1)),
    ("two lines", lambda m: m.update({"two\nlines": 1})),
    ("vocabulary_size", lambda m: m.update(vocabulary_size=2**32)),
    ("cell.layers", lambda m: m["cell"].update(layers=2**32)),
    ("cell.hidden_size", lambda m: m["cell"].update(hidden_size=2**31)),
    ("cell.embedding_size", lambda m: m["cell"].update(embedding_size=2**31)),
    ("cell.parameters", lambda m: m["cell"].update(parameters=2**70)),
    ("cell", lambda m: m["cell"].update(layers=64, hidden_size=2**14)),
    ("cell.arrays", lambda m: m["cell"].update(arrays=["h"] * 9)),
    ("cell.arrays.0", lambda m: m["cell"].update(arrays=["h\nINFO", "c"])),
    ("cell.gates", lambda m: m["cell"].update(gates=["input"] * 17)),
    ("cell.gates.0", lambda m: m["cell"].update(gates=["x" * 65])),
    ("files.decoder.ts.bytes", lambda m: m["files"]["decoder.ts"].update(bytes=2**40)),
    ("validation.x y.[key]", lambda m: m.update(validation={"x y": {}})),
    ("validation.tail.x y.[key]", lambda m: m.update(validation={"tail": {"x y": 1.0}})),
    ("validation", lambda m: m.update(validation={f"v{i}": {} for i in range(17)})),
    ("validation.tail", lambda m: m.update(validation={"tail": {f"v{i}": 1.0 for i in range(17)}})),
]


@pytest.mark.parametrize(("field", "change"), FIELD_CHANGES, ids=[f"{i}-{f}" for i, (f, _) in enumerate(FIELD_CHANGES)])
def test_a_field_with_a_wrong_value_is_named(
    field: str, change: Callable[[dict[str, Any]], object], copied: Copied
) -> None:
    path = copied()
    change_manifest(path, change)
    assert refusal(path).problem.startswith(f"manifest.json, field {field}: ")


@pytest.mark.parametrize("change", [{"name": "renamed"}, {"digest": "0" * 64}, {"digest": ""}, {"training": {}}])
def test_a_digest_that_does_not_fit_is_refused(change: dict[str, Any], copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest.update(change), fit_digest=False)
    assert refusal(path).problem == "manifest.json, field digest: it does not fit the other fields"


@pytest.mark.parametrize(
    ("field", "value"), [("unit", "byte"), ("vocabulary_size", 3), ("start_token", 5)], ids=lambda v: str(v)
)
def test_a_vocabulary_that_contradicts_the_manifest_is_refused(field: str, value: object, copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest.update({field: value}))
    problem = refusal(path).problem
    assert problem.startswith(f"manifest.json, field {field}: says ")
    assert str(value) in problem


def test_a_vocabulary_with_other_symbols_is_refused_by_its_size(bundle: Bundle, copied: Copied) -> None:
    path = copied()
    replace_file(path, "vocabulary.json", json.dumps({"unit": "character", "symbols": ["\n", "a"]}).encode())
    assert f"field vocabulary_size: says {bundle.manifest.vocabulary_size}" in refusal(path).problem


def test_a_vocabulary_file_that_is_none_is_refused_by_name(copied: Copied) -> None:
    path = copied()
    replace_file(path, "vocabulary.json", b"{}")
    assert "vocabulary.json is not a vocabulary" in refusal(path).problem


def test_a_manifest_that_does_not_list_the_vocabulary_is_refused(copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest["files"].pop("vocabulary.json"))
    assert "field files: vocabulary.json is not listed" in refusal(path).problem


@pytest.mark.parametrize("trick", ["../x", "sub/x", "/etc/hostname", "./x", "x/"])
def test_a_file_name_that_leads_elsewhere_is_refused_even_where_there_is_such_a_file(
    trick: str, copied: Copied
) -> None:
    path = copied()
    (path / "sub").mkdir()
    for file in (path / "x", path / "sub" / "x", path.parent / "x"):
        file.write_bytes(b"abc")
    entry = {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    change_manifest(path, lambda manifest: manifest["files"].update({trick: entry}))
    assert refusal(path).problem == f"manifest.json, field files: {trick!r} is not a plain file name"


@pytest.mark.parametrize("trick", ["two\nlines", "nul\0", "esc\x1b[2J", "x" * 200])
def test_a_file_name_that_is_no_plain_word_is_refused_in_one_line(trick: str, copied: Copied) -> None:
    path = copied()
    change_manifest(path, lambda manifest: manifest["files"].update({trick: {"bytes": 0, "sha256": "0" * 64}}))
    error = refusal(path)
    assert error.problem == f"manifest.json, field files: {trick!r} is not a plain file name"
    assert str(error).isprintable()


@pytest.mark.parametrize("trick", ["..", ".", ""])
def test_a_file_name_that_is_a_directory_is_refused(trick: str, copied: Copied) -> None:
    path = copied()
    entry = {"bytes": 0, "sha256": "0" * 64}
    change_manifest(path, lambda manifest: manifest["files"].update({trick: entry}))
    assert refusal(path).problem.endswith(("is missing", "is not a plain file name"))


def test_a_message_is_one_line_of_printable_characters_and_of_bounded_length(tmp_path: Path) -> None:
    error = BundleError(tmp_path, "a\nb\t\x1b[2J" + "c" * 10_000)
    assert error.problem.startswith(r"a b \x1b[2Jccc")
    assert error.problem.endswith("c...")
    assert len(error.problem) == 500
