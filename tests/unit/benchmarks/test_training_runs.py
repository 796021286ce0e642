"""Benchmarks that train: in pieces, over several seeds and over several models."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from benchmarks import loss_per_operation, recipe, training_runs
from benchmarks.reporting import Budget
from benchmarks.training_runs import claim, has_ended, train
from charloom.bundle import CellKind
from charloom.cli.main import main
from charloom.export.weights import decoder_weights
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import load_trained, read_checkpoint
from charloom.training.run_directory import LAST_FILE, load_validation
from tests.unit.training.training_runs import TINY_FLAGS

SMALL = ["--hidden-size", "8", "--embedding-size", "4", "--batch-size", "8", "--sequence-length", "16"]
FLAGS = [*SMALL, "--layers", "1", "--epochs", "1", "--precision", "fp32"]


@pytest.fixture
def text(text_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    letters = "".join(filter(str.islower, text_file.read_text("utf-8")))
    path.write_text(letters[:2500], "utf-8")  # so short that there are no windows to measure, which takes long
    return path


class UntilSaved(Budget):
    """A budget that is spent as soon as a run has saved a checkpoint."""

    def __init__(self, run: Path) -> None:
        super().__init__(10)
        self._run, self._asked = run, 0

    @property
    def seconds(self) -> float:
        self._asked += 1
        if self._asked == 1:
            return super().seconds
        while super().seconds and not (self._run / LAST_FILE).exists():
            time.sleep(0.05)
        return 0.0


def test_a_run_is_stopped_when_the_budget_is_spent_and_goes_on_in_the_next_piece(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, flags = tmp_path / "run", [*FLAGS, "--checkpoint-every", "1", "--epochs", "100000"]
    assert not train(run, text, flags, UntilSaved(run), threads=1)
    assert read_checkpoint(run / LAST_FILE).facts["step"] >= 1
    assert not has_ended(run)
    assert not train(tmp_path / "other", text, flags, Budget(0))
    assert not (tmp_path / "other").exists()

    instead(
        monkeypatch, f"import pathlib; pathlib.Path({str(run)!r}, 'losses.json').write_text(' '.join(sys.argv[1:]))"
    )
    for _ in range(2):  # the second time there is nothing to do
        assert train(run, text, flags, Budget(10), threads=1)
        instead(monkeypatch, "sys.exit(1)")
    assert (run / "losses.json").read_text() == f"train {text} --run {run} --resume --threads 1"


def test_a_run_that_fails_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "sys.exit(1)")
    with pytest.raises(SystemExit, match="ended with status 1"):
        train(tmp_path / "run", tmp_path / "text", FLAGS, Budget(10))


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let a process that runs this code stand for the command."""
    monkeypatch.setattr(training_runs, "CHARLOOM", ("-c", f"import sys; {code}"))


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path / "runs", {"text": "a", "flags": ["b"]})
    with pytest.raises(SystemExit, match=r"runs of another text or other flags \(see plan\.json\)"):
        claim(tmp_path / "runs", {"text": "a", "flags": ["c"]})


def figures(printed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def test_a_recipe_is_measured_on_a_part_that_no_run_has_seen(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs are made in this process."""

    def here(run: Path, text: Path, flags: list[str], budget: Budget, threads: int | None) -> bool:
        return main(["train", str(text), "--run", str(run), *flags]) == 0 and threads == 1

    monkeypatch.setattr(recipe, "train", here)
    given = [str(text), str(tmp_path / "runs"), "--seeds", "1,2", "--threads", "1", "--", *FLAGS]
    recipe.main(given)
    found = figures(capsys.readouterr().out)
    characters, run = text.read_text("utf-8"), tmp_path / "runs" / "seed-1"
    trained = load_trained(run)
    assert trained.vocabulary.decode(load_validation(run).tolist()) == characters[2000:2250]
    assert (tmp_path / "runs" / "test.txt").read_text("utf-8") == characters[2250:]
    assert trained.facts["corpus"]["characters"] == 2250
    assert found["unfinished"] == []
    columns = [found["seeds"][seed] for seed in ("1", "2")]
    assert columns[0] != columns[1]
    assert set(columns[0]) == {"validation tail", "test tail"}
    for name in columns[0]:
        assert found["mean"][name] == mean(column[name] for column in columns)
        assert found["deviation"][name] == stdev(column[name] for column in columns)

    assert main(["evaluate", str(run), "--text", str(tmp_path / "runs" / "test.txt"), "--json"]) == 0
    tested = {name.removeprefix("test "): loss for name, loss in columns[0].items() if name.startswith("test")}
    assert figures(capsys.readouterr().out) == pytest.approx(tested, abs=1e-6)


def test_a_test_part_with_characters_of_its_own_is_refused_before_training(text: Path, tmp_path: Path) -> None:
    text.write_text(text.read_text("utf-8") + "éψ", "utf-8")
    with pytest.raises(SystemExit, match="the test part has characters that the rest lacks: 'é', 'ψ'"):
        recipe.main([str(text), str(tmp_path / "runs"), "--", *FLAGS])
    assert not (tmp_path / "runs").exists()


def test_losses_are_tabled_against_operations_and_drawn(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [loss_per_operation.Model(cell, layers, 8) for cell, layers in ((CellKind.GRU, 2), (CellKind.LSTM, 1))]
    monkeypatch.setattr(loss_per_operation, "MODELS", models)
    for model in models:
        run = str(tmp_path / "runs" / model.name)
        assert main(["train", str(text), "--run", run, *TINY_FLAGS, *model.flags]) == 0
    capsys.readouterr()
    plot = tmp_path / "plot.svg"
    flags = ["--rows", "4", "--seconds", "0.01", "--plot", str(plot)]
    loss_per_operation.main([str(text), str(tmp_path / "runs"), *flags])
    said = capsys.readouterr().out
    found = figures(said)
    assert found["unfinished"] == []
    gru, lstm = found["models"]
    assert (gru["model"], lstm["model"]) == ("gru-2x8", "lstm-1x8")
    symbols = load_trained(tmp_path / "runs" / lstm["model"]).vocabulary.size
    assert lstm["multiply_adds"] == 8 * 32 + 8 * symbols
    for one in (gru, lstm):
        assert one["onnx-fp32"]["chars_per_s"] > 0
        assert 0 < one["onnx-int8"]["tail"] < 5
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["lstm-1x8", "gru-2x8"]  # by operations
    drawn = plot.read_text("utf-8")
    assert [word for word in ("1x8", "2x8", "gru", "lstm", "multiply-adds per character") if word not in drawn] == []


@pytest.mark.parametrize(("cell", "products"), [(CellKind.LSTM, 4), (CellKind.CIFG, 3), (CellKind.GRU, 3)])
def test_multiply_adds_are_those_of_the_matrices(cell: CellKind, products: int) -> None:
    """The first layer multiplies its own h alone: a table holds what its inputs add."""
    model = CharLSTM(11, ModelConfig(cell=cell, layers=2, hidden_size=8, embedding_size=4))
    found = loss_per_operation.multiply_adds(decoder_weights(model))
    assert found == products * 8 * 8 + products * 8 * 16 + 8 * 11


def test_no_more_models_than_twelve_each_once() -> None:
    models = loss_per_operation.MODELS
    assert len(set(models)) == len(models) <= 12
