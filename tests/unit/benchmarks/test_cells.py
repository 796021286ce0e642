from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import cells


def test_the_comparison_of_cells_prints_each_size_forward_and_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cells", "--json", "--repeats", "2"])
    monkeypatch.setattr(cells, "SIZES", [(1, 3, 4), (2, 3, 4)])
    monkeypatch.setattr(cells, "SECONDS", 0.001)
    threads = torch.get_num_threads()
    cells.main()
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert (found["best_of"], found["threads"]) == (2, 1)
    assert [(cell["rows"], cell["mode"]) for cell in found["cells"]] == [
        (rows, mode) for rows in (1, 2) for mode in ("forward", "training")
    ]
    for cell in found["cells"]:
        assert cell["ratio"] == pytest.approx(cell["four_us"] / cell["one_us"], rel=0.02, abs=0.006)  # has two decimals
