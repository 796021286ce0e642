from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from charloom.lab.tasks import parallel
from charloom.lab.tasks.pairs import Pair
from charloom.lab.tasks.parallel import read_parallel
from charloom.lab.tasks.scores import edits
from charloom.training.data.texts import CorpusError

LINES = [f"word {number}\tWort {number}" for number in range(50)]


def _file(folder: Path, *lines: str, encoding: str = "utf-8", end: str = "\n") -> Path:
    file = folder / "pairs.tsv"
    file.write_bytes("".join(line + end for line in lines).encode(encoding))
    return file


def test_all_pairs_are_in_one_of_the_parts_and_no_source_in_both(tmp_path: Path) -> None:
    file = _file(tmp_path, *LINES, *(f"word {number}\tein {number}" for number in range(50)))
    for seed in range(5):
        found = read_parallel(file, longest=10, test_share=0.2, seed=seed)
        assert (len(found.training), len(found.held_out)) == (80, 20)
        assert len({*found.training, *found.held_out}) == 100
        assert {pair.source for pair in found.training}.isdisjoint(pair.source for pair in found.held_out)
        assert found == read_parallel(file, longest=10, test_share=0.2, seed=seed)
    assert found.held_out != read_parallel(file, longest=10, test_share=0.2, seed=0).held_out


def test_pairs_are_drawn_from_their_part_and_symbols_from_the_training(tmp_path: Path) -> None:
    found = read_parallel(_file(tmp_path, *LINES), longest=10, test_share=0.99)
    for held_out, part in ((False, found.training), (True, found.held_out)):
        random = Random(0)
        assert {found.pair(random, held_out=held_out) for _ in range(1000)} == set(part)
    (pair,) = found.training
    assert found.source_symbols == "".join(sorted(set(pair.source)))
    assert found.target_symbols == "".join(sorted(set(pair.target)))
    assert found.longest == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_other_systems_further_columns_white_space_and_repeats_change_nothing(
    tmp_path: Path, encoding: str
) -> None:
    plain = read_parallel(_file(tmp_path, *LINES), longest=10)
    others = [line.replace(" ", "\u00a0 ") + " \tCC-BY 2.0 (France)\tby someone, with many words" for line in LINES]
    file = _file(tmp_path, *others, "", *LINES, " ", encoding=encoding, end="\r\n")
    assert read_parallel(file, longest=10, encoding=encoding.removesuffix("-sig")) == plain
    assert Pair("word 1", "Wort 1") in {*plain.training, *plain.held_out}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("word Wort", "pairs.tsv, line 51: there is no tab"),
        ("\tWort", "pairs.tsv, line 51: the source is empty"),
        ("word\t \tCC-BY", "pairs.tsv, line 51: the target is empty"),
        ("word\t" + "W" * 11, "line 51: the pair is 11 characters long on one side, .* and --longest is 10"),
        ("w" * 12 + "\tWort", "line 51: the pair is 12 characters long on one side"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = _file(tmp_path, *LINES, line, "elevenchars\tWort")
    with pytest.raises(CorpusError, match=message):
        read_parallel(file, longest=10)


def test_too_few_too_much_and_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"has 9 different sources, too few .* at least 10"):
        read_parallel(_file(tmp_path, *LINES[:9], "word 1\tein Wort"), longest=20)
    with pytest.raises(CorpusError, match="is not UTF-8"):
        read_parallel(_file(tmp_path, *LINES, "sch\u00f6n\tbeau", encoding="cp1252"), longest=20)
    with pytest.raises(CorpusError, match="cannot read"):
        read_parallel(tmp_path / "none.tsv", longest=20)
    monkeypatch.setattr(parallel, "MOST_CHARACTERS", 100)
    with pytest.raises(CorpusError, match="has more than 100 characters; give a part"):
        read_parallel(_file(tmp_path, *LINES), longest=20)


@pytest.mark.parametrize(
    ("written", "right", "distance"),
    [
        ("", "", 0),
        ("", "ab", 2),
        ("Katze", "Katze", 0),
        ("Katze", "Tatzen", 2),
        ("kitten", "sitting", 3),
        ("abcdef", "bcdefa", 2),
        ("ab" * 20, "ba" * 20, 2),
    ],
)
def test_edits_are_the_fewest(written: str, right: str, distance: int) -> None:
    assert edits(written, right) == edits(right, written) == distance
