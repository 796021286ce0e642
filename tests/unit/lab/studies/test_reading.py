from __future__ import annotations

from pathlib import Path

import pytest

from charloom.bundle import Mask, Unit, UnknownSymbolsError
from charloom.lab.studies.reading import reading
from charloom.lab.studies.study import StudyError
from charloom.training.data.texts import CorpusError
from charloom.training.files import CheckpointError
from charloom.training.run_directory import load_validation
from tests.unit.training.training_runs import corpus_of, tiny_config, train


def test_a_run_is_read_with_its_own_validation_part_or_with_a_file(run_directory: Path, tmp_path: Path) -> None:
    own = reading(run_directory, None)
    assert own.tokens.tolist() == load_validation(run_directory).tolist()
    assert len(own.text) == len(own.tokens)
    assert own.network == "lstm, 2 x 48"
    (tmp_path / "a.txt").write_text("another text\n")
    assert reading(run_directory, tmp_path / "a.txt").text == "another text\n"


def test_a_byte_model_has_one_character_for_each_byte(tmp_path: Path) -> None:
    train(tiny_config(unit=Unit.BYTE, epochs=1), corpus_of("Ein schöner Text. " * 40, Unit.BYTE), tmp_path / "run")
    (tmp_path / "a.txt").write_text("schön\n", "utf-8")
    found = reading(tmp_path / "run", tmp_path / "a.txt")
    assert found.text == "sch\ufffd\ufffdn\n"
    assert len(found.tokens) == 7


def test_a_file_is_masked_as_the_text_of_the_run_was(tmp_path: Path) -> None:
    text = "took 0 ms of 0\n" * 60
    train(tiny_config(mask=Mask.NUMBERS, epochs=1), corpus_of(text), tmp_path / "run")
    (tmp_path / "a.txt").write_text("took 17 ms of 0x2f\n")
    assert reading(tmp_path / "run", tmp_path / "a.txt").text == "took 0 ms of 0\n"


def test_a_word_model_is_refused(tmp_path: Path) -> None:
    train(tiny_config(unit=Unit.WORD, epochs=1), corpus_of("one text of words, " * 60, Unit.WORD), tmp_path / "run")
    with pytest.raises(StudyError, match="is a model of words; the studies show characters"):
        reading(tmp_path / "run", None)


def test_what_cannot_be_read_says_why(run_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"give its directory with --run; `charloom train"):
        reading(None, None)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        reading(tmp_path, None)
    with pytest.raises(CorpusError, match="cannot read"):
        reading(run_directory, tmp_path / "none.txt")
    (tmp_path / "a.txt").write_text("中", "utf-8")
    with pytest.raises(UnknownSymbolsError, match="中"):
        reading(run_directory, tmp_path / "a.txt")
