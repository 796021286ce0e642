from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from charloom.lab.studies import cells
from charloom.lab.studies.cells import CellSettings
from charloom.lab.studies.reading import Reading, reading
from charloom.lab.studies.study import StudyError
from charloom.lab.studies.trace import trace
from tests.unit.lab.studies.counting import COUNTER, counting


def prose(lines: int = 120) -> str:
    """Lines of many lengths, of words of many lengths."""
    choose = random.Random(1)
    words = ["a", "is", "one", "word", "other", "longer", "longest"]
    return "".join(" ".join(choose.choices(words, k=choose.randint(2, 9))) + "\n" for _ in range(lines))


def since_break(text: str) -> list[int]:
    """Characters since the last line break."""
    return [at - text.rfind("\n", 0, at + 1) for at in range(len(text))]


def test_the_unit_that_counts_is_found_and_its_trace_is_the_count(tmp_path: Path) -> None:
    text = prose()
    result = cells.measure(counting(text), CellSettings(characters=3000), lambda _: None)
    assert result.searched == 12
    line, word = result.tracked
    assert (line.feature, line.layer, line.unit) == ("position in line", 2, COUNTER)
    assert line.holds
    assert line.follower.found > 0.99
    assert line.follower.confirmed > 0.99
    at = text.index(line.passage)
    assert 1500 <= at <= 3000 - 200
    assert text[at - 1] == "\n"
    assert np.std(line.values) >= max(np.std(since_break(text)[b : b + 200]) for b in (2000, 2400, 2700))
    since = since_break(text)[at : at + 200]
    assert line.values == since
    np.testing.assert_allclose(line.cell, np.array(since) * 0.01 + 0.01, atol=1e-3)
    assert word.unit != COUNTER
    assert abs(word.follower.confirmed) < 0.5
    assert result.absent.keys() == {"inside quotes", "indentation"}
    cells.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    (table,) = cells.tables(result)
    assert list(table.columns[0].cells) == ["position in line", "position in word"]
    assert list(table.columns[-1].cells) == ["yes", "yes" if word.holds else "no"]
    assert "inside quotes: skipped, the text has no double quotes" in str(table.caption)


def test_a_real_run_is_read_and_the_shown_cells_are_its_own(run_directory: Path) -> None:
    small = reading(run_directory, None)
    result = cells.measure(small, CellSettings(characters=2000, shown_characters=60), lambda _: None)
    found = trace(small.model, small.tokens[:2000]).memory
    assert {tracked.feature for tracked in result.tracked} >= {"position in line", "position in word", "indentation"}
    for tracked in result.tracked:
        at = small.text.index(tracked.passage, 1000)
        assert at <= 2000 - 60
        np.testing.assert_allclose(tracked.cell, found[tracked.layer - 1, at : at + 60, tracked.unit], atol=1e-4)


def test_a_text_without_any_feature_is_refused_before_anything_is_drawn() -> None:
    with_break = counting("\n" + "." * 400)
    source = Reading(with_break.model, with_break.tokens[1:], with_break.text[1:])
    with pytest.raises(StudyError, match="has none of the features"):
        cells.measure(source, CellSettings(shown_characters=20), lambda _: None)


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(StudyError, match="the text has 7 characters; give at least 400"):
        cells.measure(counting("a\nb\ncd\n"), CellSettings(), lambda _: None)


def test_the_half_that_confirms_has_room_for_the_picture() -> None:
    source = counting(prose())
    with pytest.raises(StudyError, match=r"--characters 399 is less than .*; give --characters 400"):
        cells.measure(source, CellSettings(characters=399), lambda _: None)
    line, _ = cells.measure(source, CellSettings(characters=400), lambda _: None).tracked
    assert line.passage == source.text[200:400]
