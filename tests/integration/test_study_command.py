"""`charloom study`, called in this process."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from charloom.cli.main import main
from charloom.lab.studies.catalogue import STUDIES
from tests.integration.commands import Capture, refused

SMALL = {
    "cell": ["--seed", "3", "--input=-1,2"],
    "copy": ["--symbols", "1", "--delays", "2,4", "--hidden-size", "8", "--batches", "5", "--seeds", "1"],
    "gradients": ["--distance", "12", "--hidden-size", "6", "--batches", "2", "--seeds", "2"],
    "gates": ["--characters", "600"],
    "cells": ["--characters", "1000"],
}


def test_without_a_name_the_studies_are_listed(capsys: Capture) -> None:
    assert main(["study"]) == 0
    out = capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["study", "--help"])
    shown = capsys.readouterr().out
    for name in SMALL:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert len(line) > 30
        assert re.search(rf"^ +{name}\s", shown, re.MULTILINE)


@pytest.mark.parametrize("name", SMALL)
def test_a_study_tells_its_figures_and_writes_them_and_a_plot(
    name: str, run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = ["--run", str(run_directory)] if name in ("gates", "cells") else []
    out = tmp_path / "new" / "out"
    assert main(["study", name, "--out", str(out), "--threads", "1", *SMALL[name], *source]) == 0
    assert {file.name for file in out.iterdir()} == {f"{name}.json", f"{name}.png"}
    content = json.loads((out / f"{name}.json").read_text("utf-8"))
    assert content["study"] == name
    assert content["seconds"] > 0
    first = SMALL[name][0].removeprefix("--").replace("-", "_")
    assert str(content["settings"][first]) == SMALL[name][1]
    assert content["result"]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "───" in printed  # a table
    assert printed.rstrip().endswith(str(out / f"{name}.png"))


def test_figures_of_the_copy_study_are_in_its_file(tmp_path: Path, capsys: Capture) -> None:
    assert main(["study", "copy", "--out", str(tmp_path), "--threads", "1", *SMALL["copy"]]) == 0
    result = json.loads((tmp_path / "copy.json").read_text("utf-8"))["result"]
    assert result["chance"] == 1 / 8
    assert [(recall["kind"], recall["delay"]) for recall in result["recalls"]] == [
        (kind, delay) for delay in (2, 4) for kind in ("rnn-orthogonal", "lstm-mixed")
    ]


def test_an_unknown_study_and_a_missing_directory_are_said(capsys: Capture, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["study", "dreams", "--out", str(tmp_path)])
    assert "invalid choice: 'dreams' (choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["study", "copy"])
    assert "--out" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_directory_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setitem(STUDIES, "copy", dataclasses.replace(STUDIES["copy"], measure=measured))
    file = tmp_path / "file"
    file.write_text("kept")
    for out in (file, file / "below"):
        assert f"--out {out}: there is a file of that name; give a directory" in refused(
            capsys, "study", "copy", "--out", out
        )
    assert file.read_text() == "kept"


def test_lists_are_shown_as_they_are_given(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["study", "copy", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="0"):
        main(["study", "cell", "--help"])
    of_numbers = " ".join(capsys.readouterr().out.split())
    assert "--cell X,X,... the cell state before the step, c: as many (default: 1.0,-0.5,0.3,0.7)" in of_numbers
    assert "--delays N,N,... blanks between the symbols and their recall (default: 10,50,100,200)" in said


def test_settings_out_of_range_are_said_by_their_flags(tmp_path: Path, capsys: Capture) -> None:
    for wrong in ("10,x", "5 10", "0,5", "-1"):
        error = refused(capsys, "study", "copy", "--out", tmp_path, f"--delays={wrong}")
        assert f"--delays {wrong}: give whole numbers above 0, with commas between them, such as 10,50" in error
    for wrong, said in (
        ("a,1", "give numbers with commas between them, such as 0.5,-0.2"),
        ("nan", "Input should be a"),
    ):
        assert f"--cell {wrong}: {said}" in refused(capsys, "study", "cell", "--out", tmp_path, "--cell", wrong)
    assert "--seeds 0: Input should be greater than" in refused(
        capsys, "study", "gradients", "--out", tmp_path, "--seeds", 0
    )
    assert "--threads 0: give at least 1" in refused(capsys, "study", "gradients", "--out", tmp_path, "--threads", 0)


@pytest.mark.parametrize("name", ["gates", "cells"])
def test_a_study_of_a_run_says_that_it_needs_one(
    name: str, run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    error = refused(capsys, "study", name, "--out", tmp_path)
    assert "give its directory with --run" in error
    assert "charloom train TEXT" in error
    assert "there is no checkpoint" in refused(capsys, "study", name, "--out", tmp_path, "--run", tmp_path / "none")
    (tmp_path / "short.txt").write_text("too short")
    error = refused(capsys, "study", name, "--out", tmp_path, "--run", run_directory, "--text", tmp_path / "short.txt")
    assert "the text has 9 characters" in error
    assert list(tmp_path.glob("*.png")) == []


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for module in [name for name in sys.modules if name.startswith(("charloom.lab.", "charloom.cli.training.study"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    assert main(["study", "copy"]) == 1
    error = capsys.readouterr().err
    assert error == "charloom study needs matplotlib, which is not installed; run: pip install 'charloom[studies]'\n"
