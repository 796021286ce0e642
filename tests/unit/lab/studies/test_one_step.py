from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from charloom.lab.reference.numpy_lstm import GATES, sigmoid
from charloom.lab.studies import one_step
from charloom.lab.studies.one_step import StepResult, StepSettings
from charloom.lab.studies.study import StudyError


def measured(**settings: object) -> StepResult:
    return one_step.measure(StepSettings.model_validate(settings), lambda _: None)


def test_every_line_follows_from_the_lines_before_it() -> None:
    settings = StepSettings()
    result = one_step.measure(settings, lambda _: None)
    found = {name: np.array(value) for name, value in result.lines.items()}
    assert result.z == [*settings.hidden, *settings.input]
    for gate in GATES:
        weights, biases = np.array(result.parameters[f"w_{gate}"]), np.array(result.parameters[f"b_{gate}"])
        assert biases.tolist() == [1.0 if gate == "f" else 0.0] * 4
        before = found[f"W_{gate} z + b_{gate}"]
        assert before == pytest.approx(weights @ result.z + biases)
        assert found[gate] == pytest.approx(np.tanh(before) if gate == "g" else sigmoid(before))
    assert found["f ⊙ c"] == pytest.approx(found["f"] * settings.cell)
    assert found["i ⊙ g"] == pytest.approx(found["i"] * found["g"])
    assert found["c'"] == pytest.approx(found["f ⊙ c"] + found["i ⊙ g"])
    assert found["h'"] == pytest.approx(found["o"] * np.tanh(found["c'"]))


def test_the_sweep_goes_through_the_given_step_and_changes_one_input_alone(tmp_path: Path) -> None:
    result = measured(input="0.5,-1.5", swept=2)
    (place,) = np.flatnonzero(np.isclose(result.values, -1.5))
    assert (result.values[0], result.values[-1]) == (-3, 3)
    for name, rows in result.sweep.items():
        assert [row[place] for row in rows] == pytest.approx(result.lines[name]), name
    other = measured(input="0.5,3", swept=2)
    assert [row[-1] for row in result.sweep["c'"]] == pytest.approx(other.lines["c'"])
    one_step.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_an_input_beyond_the_sweep_widens_it() -> None:
    result = measured(input="-7,0", swept=1)
    assert (result.values[0], result.values[-1]) == (-7, 3)


def test_the_table_has_every_line_with_its_numbers() -> None:
    result = measured(seed=2)
    (table,) = one_step.tables(result)
    assert table.title == "z = [h; x] = [0.100, 0.300, -0.100, 0.200, 0.500, -0.200, 0.800]"
    names, first, *_ = (list(column.cells) for column in table.columns)
    assert len(table.columns) == 5
    lines = dict(zip(names, first, strict=True))
    assert lines["c"] == "1.000"
    after = result.lines["c'"]
    assert lines["c' = f ⊙ c + i ⊙ g"] == f"{after[0]:.3f}"
    assert lines["W_o z + b_o"] == f"{result.lines['W_o z + b_o'][0]:.3f}"
    assert {"f = σ(W_f z + b_f)", "i = σ(W_i z + b_i)", "g = tanh(W_g z + b_g)", "o = σ(W_o z + b_o)"} < lines.keys()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": (1, 2)}, "--hidden has 2 numbers and --cell 4; give each one per unit"),
        ({"swept": 4}, "--swept 4: --input has 3 numbers, the first is 1"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        measured(**settings)
