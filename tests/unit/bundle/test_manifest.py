from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pydantic import ValidationError

from charloom.bundle import (
    TRANSCRIPT,
    Cell,
    DecoderKind,
    FileEntry,
    Labelling,
    LabelScores,
    Manifest,
    Unit,
    write_manifest,
)
from tests.unit.bundle.bundle_files import digest_of

SHA = "0123456789abcdef" * 4
OTHER_SHA = "f" * 64
CELL = Cell(arrays=("h", "c"), gates=("input", "output"), layers=2, hidden_size=8, embedding_size=4, parameters=100)
ENTRY = FileEntry(bytes=3, sha256=SHA)
MANIFEST = Manifest(
    name="small",
    unit=Unit.CHARACTER,
    vocabulary_size=5,
    start_token=0,
    cell=CELL,
    weights_sha256=SHA,
    files={"vocabulary.json": ENTRY, "decoder.onnx": ENTRY},
    training={"step": 10, "corpus": {"name": "a"}},
    validation={"tail": {"checkpoint": 1.5}},
)

LABELLING = Labelling(
    labels=("a", "b"),
    max_length=9,
    unknown_token=5,
    test={"checkpoint": LabelScores(accuracy=0.5, loss=0.7, calibration_error=0.1)},
)

CHANGES: dict[str, list[Any]] = {
    "schema_version": [2],
    "name": ["other"],
    "unit": [Unit.BYTE],
    "vocabulary_size": [6],
    "start_token": [1],
    "cell": [
        *[CELL.model_copy(update={name: 9}) for name in ("layers", "hidden_size", "embedding_size", "parameters")],
        CELL.model_copy(update={"arrays": ("h",)}),
        CELL.model_copy(update={"gates": ("output", "input")}),
    ],
    "weights_sha256": [OTHER_SHA],
    "files": [
        {"vocabulary.json": ENTRY},
        MANIFEST.files | {"vocabulary.json": ENTRY.model_copy(update={"bytes": 4})},
        MANIFEST.files | {"vocabulary.json": ENTRY.model_copy(update={"sha256": OTHER_SHA})},
        {"vocabulary.json": ENTRY, "decoder2.onnx": ENTRY},
    ],
    "training": [{"step": 10, "corpus": {"name": "b"}}],
    "validation": [{"tail": {"checkpoint": 1.25}}, {"windows-256": {"checkpoint": 1.5}}],
    "chat": [TRANSCRIPT],
    "continues": [(SHA,), (OTHER_SHA, SHA)],
    "follows": [(SHA,), (OTHER_SHA, SHA)],
    "labelling": [
        LABELLING,
        *[
            LABELLING.model_copy(update=change)
            for change in ({"labels": ("b", "a")}, {"max_length": 8}, {"unknown_token": None}, {"test": {}})
        ],
    ],
}


def test_the_changes_below_are_of_all_fields_but_the_digest() -> None:
    assert CHANGES.keys() | {"digest"} == Manifest.model_fields.keys()


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in CHANGES.items() for value in values])
def test_the_digest_changes_with_every_field(field: str, value: Any) -> None:
    changed = MANIFEST.model_copy(update={field: value})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic minds a schema_version that the type excludes
        assert changed.computed_digest() != MANIFEST.computed_digest()


def test_each_of_these_changes_has_a_digest_of_its_own() -> None:
    labellings = [MANIFEST.model_copy(update={"labelling": one}) for one in CHANGES["labelling"]]
    assert len({one.computed_digest() for one in labellings}) == len(labellings)


def test_the_digest_is_over_the_canonical_json_of_the_other_fields() -> None:
    signed = MANIFEST.with_digest()
    assert signed.digest == digest_of(
        signed.model_dump(mode="json", exclude={"chat", "labelling", "continues", "follows"})
    )
    assert signed.computed_digest() == signed.digest


def test_the_decoders_are_those_with_a_file_the_preferred_one_first() -> None:
    every = {kind.file: ENTRY for kind in reversed(DecoderKind)}
    assert MANIFEST.model_copy(update={"files": every}).decoders == tuple(DecoderKind)
    assert MANIFEST.decoders == (DecoderKind.ONNX_FP32,)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "é", "x" * 65, "a\n"])
def test_a_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Manifest.model_validate(MANIFEST.model_dump() | {"name": name})


def test_a_manifest_that_cannot_be_written_leaves_the_bundle_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_manifest(tmp_path, MANIFEST)
    before = (tmp_path / "manifest.json").read_text("utf-8")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, MANIFEST.model_copy(update={"name": "other"}))
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("manifest.json", before)]
