from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.folders import Text, read_parts
from charloom.training.data.texts import CorpusError

CONFIG = ClassificationConfig()


def write(folder: Path, counts: dict[str, int]) -> Path:
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.txt").write_text(f"{folder.name} {label} {number}", "utf-8")
    return folder


def test_the_split_is_disjoint_complete_stratified_and_seeded(tmp_path: Path) -> None:
    write(tmp_path / "texts", {"pos": 40, "neg": 80, ".hidden": 3})
    (tmp_path / "texts" / "readme.txt").write_text("not a label")
    (tmp_path / "texts" / "pos" / "scores.csv").write_text("not a text")
    parts = read_parts(tmp_path / "texts", CONFIG)
    assert parts.labels == ("neg", "pos")
    assert Counter(text.label for text in parts.test) == {0: 8, 1: 4}
    assert Counter(text.label for text in parts.validation) == {0: 8, 1: 4}
    everything = [*parts.train, *parts.validation, *parts.test]
    assert len(set(everything)) == len(everything) == 120
    assert all(("pos" in text.content) == (text.label == 1) for text in everything)
    assert read_parts(tmp_path / "texts", CONFIG) == parts
    assert read_parts(tmp_path / "texts", CONFIG.model_copy(update={"seed": 2})).test != parts.test


def test_a_given_test_folder_is_the_test(tmp_path: Path) -> None:
    write(tmp_path / "train", {"pos": 20, "neg": 20})
    write(tmp_path / "test", {"pos": 3, "neg": 2})
    parts = read_parts(tmp_path, CONFIG)
    assert (len(parts.train), len(parts.validation)) == (36, 4)
    assert parts.test == [Text(f"test neg {n}", 0) for n in range(2)] + [Text(f"test pos {n}", 1) for n in range(3)]
    assert not any("test" in text.content for text in [*parts.train, *parts.validation])


def test_labels_that_only_one_part_has_are_refused_unless_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train", {"pos": 5, "neg": 5, "unsup": 5})
    write(tmp_path / "test", {"pos": 1, "neg": 1})
    with pytest.raises(CorpusError, match=r"\(neg, pos, unsup\).*\(neg, pos\) differ; .* --labels neg,pos"):
        read_parts(tmp_path, CONFIG)
    assert read_parts(tmp_path, CONFIG, ["pos", "neg"]).labels == ("neg", "pos")


def test_labels_may_be_called_train_and_test(tmp_path: Path) -> None:
    assert read_parts(write(tmp_path / "rails", {"train": 5, "test": 5}), CONFIG).labels == ("test", "train")


def test_a_test_share_beside_a_test_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train", {"pos": 5, "neg": 5})
    write(tmp_path / "test", {"pos": 1, "neg": 1})
    with pytest.raises(CorpusError, match="--test-share is for folders without one"):
        read_parts(tmp_path, ClassificationConfig(test_share=0.2))


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        ClassificationConfig(validation_share=0.5, test_share=0.5)


def test_each_label_is_in_each_part_even_where_texts_are_few(tmp_path: Path) -> None:
    parts = read_parts(write(tmp_path / "texts", {"a": 3, "b": 30}), CONFIG)
    for part in (parts.train, parts.validation, parts.test):
        assert {text.label for text in part} == {0, 1}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, r"has 0 label\(s\) \(no sub-folders\) and needs two"),
        ({"pos": 3}, r"has 1 label\(s\) \(pos\) and needs two"),
        ({"pos": 3, "neg": 0}, r"neg has no \*.txt files"),
        ({"pos": 3, "neg": 1}, "label 'neg' has too few texts"),
        ({"pos": 3, "neg": 2}, "label 'neg' has too few texts"),
    ],
)
def test_a_folder_without_enough_is_refused(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(CorpusError, match=message):
        read_parts(write(tmp_path / "texts", counts), CONFIG)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0.txt is empty"), (b" \n\t", "0.txt has nothing but white space"), (b"caf\xe9", "0.txt is not UTF-8")],
)
def test_a_file_that_is_no_text_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path / "texts", {"pos": 3, "neg": 3})
    (tmp_path / "texts" / "pos" / "0.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_parts(tmp_path / "texts", CONFIG)


def test_a_missing_folder_and_a_missing_label_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is no folder"):
        read_parts(tmp_path / "nothing", CONFIG)
    with pytest.raises(CorpusError, match="has no sub-folder 'neutral'; it has: neg, pos"):
        read_parts(write(tmp_path / "texts", {"pos": 3, "neg": 3}), CONFIG, ["pos", "neutral"])
