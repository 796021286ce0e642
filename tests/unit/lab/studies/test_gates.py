from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.bundle import CellKind
from charloom.lab.studies import gates
from charloom.lab.studies.features import character_class
from charloom.lab.studies.gates import GateSettings
from charloom.lab.studies.reading import Reading, reading
from charloom.lab.studies.study import StudyError
from charloom.lab.studies.trace import trace
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from tests.unit.lab.studies.counting import COUNTER, counting

TEXT = "Some lines, of a text\nwith 3 short\nlines\n" * 20


@pytest.fixture(scope="module")
def small(run_directory: Path) -> Reading:
    return reading(run_directory, None)


def test_a_gate_that_closes_at_line_breaks_is_seen_to() -> None:
    result = gates.measure(counting(TEXT), GateSettings(shown_from=0, shown_characters=60, shown_units=2), print)
    assert result.passage.startswith("with 3 short\nlines\nSome")
    assert result.units.count(COUNTER) == 1
    row = result.forget[result.units.index(COUNTER)]
    assert row == [0.0 if character == "\n" else 1.0 for character in result.passage]
    lowest = min(result.by_character[1].items(), key=lambda item: item[1])
    assert lowest == ("\n", pytest.approx(0, abs=1e-4))
    assert result.by_class["forget"]["newline"][1] == pytest.approx(0, abs=1e-4)
    assert result.by_class["forget"]["lower case"][1] == pytest.approx(1 / 6, abs=1e-4)
    assert result.closed["newline"] == [1, 1]
    assert result.closed["space"] == [1, pytest.approx(5 / 6, abs=1e-4)]
    assert result.counts == {kind: sum(character_class(c) == kind for c in TEXT) for kind in result.counts}
    assert sum(result.counts.values()) == len(TEXT)


def test_means_are_those_of_the_trace(small: Reading, tmp_path: Path) -> None:
    settings = GateSettings(characters=700, shown_from=100, shown_characters=50, shown_units=10)
    result = gates.measure(small, settings, lambda _: None)
    found = trace(small.model, small.tokens[:700])
    spaces = [at for at, character in enumerate(small.text[:700]) if character == " "]
    assert list(result.by_class) == ["input", "forget", "output"]
    for name, means in result.by_class.items():
        np.testing.assert_allclose(means["space"], found.gates[name][:, spaces].mean(axis=(1, 2)), atol=1e-4)
    forget = found.gates["forget"]
    np.testing.assert_allclose(result.by_character[1][" "], forget[1, spaces].mean(), atol=1e-4)
    start = small.text.index(result.passage)
    assert start >= 100
    assert small.text[start - 1] == "\n"
    np.testing.assert_allclose(result.forget, forget[1, start : start + 50, result.units], atol=1e-4)
    np.testing.assert_allclose(result.mean_forget, forget[:, start : start + 50].mean(axis=2), atol=1e-4)
    assert len(result.units) == 10
    still = set(range(48)) - set(result.units)
    assert forget[1, start : start + 50, sorted(still)].std(axis=1).max() <= min(
        forget[1, start : start + 50, unit].std() for unit in result.units
    )
    gates.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    of_classes, extremes = gates.tables(result)
    assert of_classes.row_count == len(result.counts)
    assert extremes.row_count == 2


def test_a_text_without_line_breaks_is_shown_from_where_it_was_asked() -> None:
    source = counting("\n" + "word and word. " * 30)
    result = gates.measure(source, GateSettings(shown_from=7, shown_characters=20), lambda _: None)
    assert result.passage == source.text[7:27]


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(StudyError, match="the text has 7 characters; the picture needs those from 500 to 580"):
        gates.measure(counting("a\nb\ncd\n"), GateSettings(), lambda _: None)


def test_a_cell_without_a_forget_gate_is_refused() -> None:
    source = counting("a\nb\ncd\n" * 100)
    config = ModelConfig(cell=CellKind.GRU, layers=2, hidden_size=6, embedding_size=5)
    model = CharLSTM(source.model.vocabulary_size, config)
    with pytest.raises(StudyError, match="is of forget gates, and gru, 2 x 6 has reset, update, candidate"):
        gates.measure(Reading(model, source.tokens, source.text), GateSettings(), lambda _: None)
