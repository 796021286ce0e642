from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from charloom.lab.studies import copying
from charloom.lab.studies.copying import CopyResult, CopySettings, Recall


def test_short_delays_are_recalled_and_all_trainings_are_there(tmp_path: Path) -> None:
    settings = CopySettings(symbols=1, delays=(3, 6), hidden_size=24, batches=300, batch_size=16, seeds=2)
    said: list[str] = []
    result = copying.measure(settings, said.append)
    assert {(r.kind, r.delay, r.seed) for r in result.recalls} == {
        (kind, delay, seed) for kind in copying.KINDS for delay in (3, 6) for seed in (0, 1)
    }
    assert result.chance == 1 / 8
    assert result.parameters["lstm-mixed"] - 25 * 8 == 4 * (result.parameters["rnn-orthogonal"] - 25 * 8)
    for kind in copying.KINDS:
        assert min(result.accuracies(kind, 3)) == 1
    assert len(said) == 4
    copying.draw(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert all(recall.solved and recall.batches < 300 for recall in result.recalls if recall.delay == 3)


def test_too_few_batches_recall_no_better_than_guessing() -> None:
    result = copying.measure(CopySettings(symbols=1, delays=(60,), batches=1, hidden_size=8, seeds=8), lambda _: None)
    for kind in copying.KINDS:
        found = result.accuracies(kind, 60)
        assert sum(found) / len(found) == pytest.approx(1 / 8, abs=0.09)
        assert not any(recall.solved for recall in result.recalls)


def test_the_table_has_the_median_the_range_and_how_many_solved_it() -> None:
    recalls = [
        *(Recall("rnn-orthogonal", 10, seed, value, 900, False) for seed, value in enumerate((0.2, 0.3, 0.9))),
        *(Recall("lstm-mixed", 10, seed, 1.0, batches, True) for seed, batches in enumerate((100, 150, 300))),
    ]
    (table,) = copying.tables(CopyResult(1 / 8, {"rnn-orthogonal": 10, "lstm-mixed": 40}, tuple(recalls)))
    delay, rnn, lstm = (list(column.cells) for column in table.columns)
    assert delay == ["10"]
    assert rnn == ["30% (20% to 90%)\n0 of 3"]
    assert lstm == ["100% (100% to 100%)\n3 of 3, after 150 batches"]
    assert str(table.caption).endswith("guessing recalls 12.5%")


def test_delays_are_given_as_a_list_of_lengths() -> None:
    assert CopySettings.model_validate({"delays": "5, 20"}).delays == (5, 20)
    for wrong in ("", "5,", "0", "five", "5;6"):
        with pytest.raises(ValidationError):
            CopySettings.model_validate({"delays": wrong})
