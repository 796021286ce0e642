"""`charloom train`, `evaluate` and `export`, called in this process."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charloom.bundle import DecoderKind, read_bundle
from charloom.cli.main import main
from charloom.cli.training.lasting_console import UNREAD
from charloom.models import BUNDLED_MODEL
from charloom.training import loop
from charloom.training.checkpoint import load_trained
from charloom.training.files import CheckpointError
from charloom.training.find_rate import FoundRate, Trial
from charloom.training.watching import html_report
from charloom.training.watching.figures import loss_figures
from charloom.training.watching.history import read_warnings
from charloom.training.watching.terminal import TerminalReporter
from tests.integration.commands import Capture, refused

SETTINGS = [
    *("--layers", "1", "--hidden-size", "16", "--embedding-size", "8", "--dropout", "0"),
    *("--batch-size", "8", "--sequence-length", "16", "--epochs", "2"),
    *("--warmup-steps", "5", "--learning-rate", "0.01", "--device", "cpu", "--threads", "1"),
]


@pytest.fixture(scope="module")
def text(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "text.txt"
    path.write_text(text_file.read_text("utf-8")[:8000], "utf-8")
    return path


def test_a_text_becomes_a_run_its_losses_and_a_bundle(text: Path, tmp_path: Path, capsys: Capture) -> None:
    run, target = tmp_path / "run", tmp_path / "model"
    assert main(["train", str(text), "--run", str(run), *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert "text.txt: 8,000 characters" in out
    assert "7,200 characters to train on, 800 to validate" in out
    assert "model: 1 x 16" in out
    assert out.count("validation ") >= 2
    assert "tail  " in out
    assert "windows-256" in out
    assert f"next:charloomexport{run}BUNDLE" in "".join(out.split())
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert (config["hidden_size"], config["epochs"], config["learning_rate"]) == (16, 2, 0.01)

    assert main(["evaluate", str(run)]) == 0
    plain = capsys.readouterr().out
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"tail", "windows-256"}
    assert json.loads((run / "losses.json").read_text("utf-8"))["losses"] == found
    assert plain.startswith("800 characters\n")
    for loss in found.values():
        assert loss_figures(loss) in plain

    assert main(["export", str(run), str(target)]) == 0
    out = capsys.readouterr().out
    manifest = read_bundle(target).manifest
    assert manifest.name == "model"
    assert manifest.decoders == tuple(DecoderKind)
    assert manifest.validation["windows-256"]["checkpoint"] == found["windows-256"]
    assert manifest.validation["tail"]["checkpoint"] == pytest.approx(found["tail"])
    assert manifest.digest[:12] in out
    assert f"next: charloom serve {target}" in out


def test_evaluate_reads_another_text_and_does_not_keep_its_figures(
    copied_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "text.txt").write_text("The same text again and again. " * 8)
    assert main(["evaluate", str(copied_run), "--text", str(tmp_path / "text.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"tail"}  # too short for windows
    assert 1 < found["tail"] < 5
    assert not (copied_run / "losses.json").exists()


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def stopping(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that is not ignored, as SIGHUP is where the tests themselves run under nohup."""
    number: signal.Signals = request.param
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield number
    signal.signal(number, before)


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    stopping: signal.Signals, text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        told = TerminalReporter.step

        def step(self: TerminalReporter, progress: Any) -> None:
            told(self, progress)
            if progress.step == 3:
                signal.raise_signal(stopping)

        patched.setattr(TerminalReporter, "step", step)
        assert main(["train", str(text), "--run", str(run), *SETTINGS]) == 130
    assert "stopped at step 3; go on with: charloom train" in capsys.readouterr().out.replace("\n", " ")
    assert main(["train", str(text), "--run", str(run), "--resume"]) == 0  # the settings are the run's
    assert "done" in capsys.readouterr().out
    assert load_trained(run).facts["config"]["hidden_size"] == 16


def test_a_run_under_nohup_outlives_its_terminal(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TerminalReporter, "step", lambda *_: signal.raise_signal(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["train", str(text), "--run", str(tmp_path / "run"), *SETTINGS]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("output", ["a pager that was quit", "a full disk"])
def test_a_run_goes_on_when_its_output_cannot_be_written(
    output: str, text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    if output == "a full disk":
        written = os.open("/dev/full", os.O_WRONLY)
    else:
        read, written = os.pipe()
        os.close(read)
    with monkeypatch.context() as patched, os.fdopen(written, "w") as stream:
        patched.setattr(sys, "stdout", stream)
        assert main(["train", str(text), "--run", str(run), *SETTINGS]) == 0
    assert capsys.readouterr().err == f"charloom: {UNREAD}\n"
    assert (run / "losses.json").exists()
    assert (run / "report.html").exists()


def test_a_command_that_is_shown_can_be_copied(
    text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / ("long-name-" * 10) / "[red]"
    monkeypatch.setattr(TerminalReporter, "step", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["train", str(text), "--run", str(run), *SETTINGS]) == 130
    assert f"charloom train {text} --run {shlex.quote(str(run))} --resume --threads 1 --device cpu\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dropout", "1.5"], "--dropout 1.5: Input should be less than 1"),
        (["--layers", "two"], "--layers two: Input should be a valid integer"),
        (["--unit", "line"], "--unit line: Input should be 'character', 'byte' or 'word'"),
        (["--seed", "-1"], "--seed -1: Input should be greater than or equal to 0"),
        (["--layers", "0", "--epochs", "0"], "--epochs 0: Input should be greater than or equal to 1"),
        (["--tie-weights"], "--tie-weights needs --embedding-size (128) equal to --hidden-size (512)"),
        (["--accumulate", "3"], "--accumulate (3) must divide --batch-size (64)"),
        (["--threads", "0"], "--threads 0: give at least 1"),
        (["--device", "cuda"], "--device cuda: no CUDA device is available"),
        (["--batch-size", "5000"], "fewer than the"),
        (["--resume", *SETTINGS], "give the directory of a run"),
        pytest.param(["--device", "abacus"], "--device abacus"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_train_refuses_bad_settings_in_one_line(
    flags: list[str], message: str, text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert message in refused(capsys, "train", text, "--run", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_the_search_for_a_learning_rate_tells_which_flags_it_does_not_use(
    text: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FoundRate([Trial(1e-3, 2.0)], 1e-3)
    monkeypatch.setattr("charloom.cli.training.train.find_learning_rate", lambda *_: found)
    command = ["train", str(text), "--find-learning-rate", "--batch-size", "4", "--sequence-length", "8"]
    assert main(command) == 0
    assert "not used" not in capsys.readouterr().out
    assert main([*command, "--schedule", "plateau", "--learning-rate", "0.1"]) == 0
    said = "not used, as the rate is raised from tiny to too high: --learning-rate, --schedule\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; give the path of a text file"),
        (b"", "is empty; give a file with text"),
        (b"caf\xe9", "is not UTF-8: byte 0xe9 at offset 3"),
        (b"too short", "give more text, or lower --batch-size or --sequence-length"),
    ],
    ids=["missing", "empty", "latin-1", "short"],
)
def test_train_refuses_a_bad_text_in_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(capsys, "train", path, "--run", tmp_path / "run")


def test_train_refuses_a_directory_that_holds_a_run(text: Path, run_directory: Path, capsys: Capture) -> None:
    error = refused(capsys, "train", text, "--run", run_directory, *SETTINGS)
    assert "already holds a run; resume it with `charloom train --resume`, or choose another --run" in error


def test_a_resume_refuses_another_text_and_other_settings(
    text: Path, text_file: Path, run_directory: Path, capsys: Capture
) -> None:
    assert "was trained on another text" in refused(capsys, "train", text, "--run", run_directory, "--resume")
    error = refused(capsys, "train", text_file, "--run", run_directory, "--resume", "--batch-size", "9")
    assert "these differ: batch_size (run: 8, given: 9)" in error


def test_a_resume_refuses_a_checkpoint_cut_short(text_file: Path, copied_run: Path, capsys: Capture) -> None:
    last = copied_run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    error = refused(capsys, "train", text_file, "--run", copied_run, "--resume")
    assert "last.safetensors is damaged or cut short" in error


def test_a_resume_needs_nothing_but_the_checkpoint(text_file: Path, copied_run: Path, capsys: Capture) -> None:
    """`config.json` is for people; the settings of a resumed run are those of its checkpoint."""
    (copied_run / "config.json").write_text("{")
    assert main(["train", str(text_file), "--run", str(copied_run), "--resume"]) == 0
    assert json.loads((copied_run / "config.json").read_text("utf-8"))["hidden_size"] == 48


def test_train_refuses_a_file_in_place_of_the_run_directory(text: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(capsys, "train", text, "--run", tmp_path / "file", *SETTINGS)


def test_a_run_leaves_a_report_that_can_be_written_again(text: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(["train", str(text), "--run", str(run), *SETTINGS, "--tensorboard"]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    page = (run / "report.html").read_text("utf-8")
    assert "<h2>Final losses" in page
    assert len(list((run / "tensorboard").iterdir())) == 1
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\n"
    again = (run / "report.html").read_text("utf-8")
    assert re.sub("written [^<]*", "", again) == re.sub("written [^<]*", "", page)
    assert "there is no run in" in refused(capsys, "report", tmp_path / "nothing")


def test_train_without_a_report_is_still_a_run(
    text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("cannot write it: No space left on device")

    monkeypatch.setattr(html_report, "replace_file", full)
    assert main(["train", str(text), "--run", str(tmp_path / "run"), *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert "warning: watcher failed, step" in out
    assert "warning: no report was written: cannot write it: No space left on device" in out
    assert "next: charloom export" in out


def test_tensorboard_that_is_not_installed_is_asked_for_before_anything_else(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("charloom.training.watching.tensorboard", "torch.utils.tensorboard", "torch.utils.tensorboard.writer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    error = refused(capsys, "train", tmp_path / "missing.txt", "--run", tmp_path / "run", "--tensorboard")
    assert "--tensorboard needs tensorboard, which is not installed; run: pip install 'charloom[watch]'" in error
    assert not (tmp_path / "run").exists()


def test_train_says_that_it_diverged_in_one_line(text: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = [*SETTINGS, "--learning-rate", "1e38", "--warmup-steps", "0", "--precision", "fp32"]
    error = refused(capsys, "train", text, "--run", tmp_path / "run", *settings)
    assert "at step" in error
    assert "Lower --learning-rate" in error
    assert read_warnings(tmp_path / "run")[0].text in error
    assert "<b>diverged</b>" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_evaluate_and_export_refuse_what_is_no_run(command: str, tmp_path: Path, capsys: Capture) -> None:
    rest = [tmp_path / "bundle"] if command == "export" else []
    error = refused(capsys, command, tmp_path / "nothing", *rest)
    assert f"there is no checkpoint {tmp_path / 'nothing' / 'best.safetensors'}" in error


def test_a_bundle_or_a_classifier_in_the_place_of_a_run_is_told(tmp_path: Path, capsys: Capture) -> None:
    for command in (["evaluate", BUNDLED_MODEL], ["export", BUNDLED_MODEL, tmp_path / "bundle"]):
        assert f"{BUNDLED_MODEL} is a bundle; give the directory of its run, or add --from" in refused(capsys, *command)
    error = refused(capsys, "export", BUNDLED_MODEL.name, tmp_path / "bundle")
    assert "shakespeare is the bundled model, not the directory of a run; add --from" in error
    (tmp_path / "classifier.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "accuracy": 0.5}\n')
    told = f"{tmp_path} is a run of `charloom classify train`; "
    assert f"{told}only runs of `charloom train` have a report" in refused(capsys, "report", tmp_path)
    assert f"{told}`charloom classify evaluate`" in refused(capsys, "evaluate", tmp_path)


def test_the_bundled_model_gives_its_vocabulary_by_name_and_cannot_teach(
    text: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    for flag in ("--teacher", "--initial-weights"):
        error = refused(capsys, "train", text, "--run", run, flag, "shakespeare")
        assert f"{flag} shakespeare: the bundled model has no weights, so that nothing can learn from it" in error
    plain = tmp_path / "plain.txt"
    plain.write_text("The cat sat on the mat.\n" * 200)
    assert main(["train", str(plain), "--run", str(run), "--vocabulary", "shakespeare", *SETTINGS]) == 0
    bundled = (BUNDLED_MODEL / "vocabulary.json").read_bytes()
    assert (run / "vocabulary.json").read_bytes() == bundled


@pytest.mark.parametrize("command", ["evaluate", "export"])
@pytest.mark.parametrize("damaged", ["best.safetensors", "vocabulary.json", "validation.npy"])
def test_evaluate_and_export_refuse_a_damaged_run(
    command: str, damaged: str, copied_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (copied_run / damaged).write_bytes(b"{")
    rest = [tmp_path / "bundle"] if command == "export" else []
    error = refused(capsys, command, copied_run, *rest)
    assert damaged in error or "validation tokens" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"a", "the tail protocol needs at least 2: give more text\n"),
        ("über".encode(), "not in the model's vocabulary: 'ü' (U+00FC) 1 times; take them out"),
    ],
    ids=["missing", "empty", "not-utf-8", "short", "unknown"],
)
def test_evaluate_refuses_a_bad_text_in_one_line(
    content: bytes | None, message: str, run_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert message in refused(capsys, "evaluate", run_directory, "--text", path)


def test_evaluate_prints_its_figures_where_they_cannot_be_kept(copied_run: Path, capsys: Capture) -> None:
    kept = copied_run / "losses.json"
    kept.unlink(missing_ok=True)
    kept.mkdir()
    assert main(["evaluate", str(copied_run), "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out).keys() == {"tail", "windows-256"}
    assert found.err.startswith("the figures were not kept for the export: cannot write ")
    assert found.err.count("\n") == 1


def test_a_finished_run_goes_on_when_it_is_given_more_epochs(text: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(["train", str(text), "--run", str(run), *SETTINGS]) == 0
    capsys.readouterr()
    again = ["train", str(text), "--run", str(run), "--resume"]
    assert main([*again, "--epochs", "4"]) == 0
    out = capsys.readouterr().out
    assert "4 epochs instead of 2: the learning rate follows the cosine of 4 epochs from here on: " in out
    rates = re.search(r"from here on: (\S+) instead of (\S+), so that", out)
    assert rates is not None
    assert float(rates[1]) > 10 * float(rates[2])
    assert json.loads((run / "config.json").read_text("utf-8"))["epochs"] == 4
    epochs = [json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert epochs == [1.0, 2.0, 3.0, 4.0]
    assert load_trained(run).facts["config"]["epochs"] in (2, 4)
    assert "epochs (run: 4, given: 3)" in refused(capsys, *again, "--epochs", "3")
    assert "hidden_size (run: 16, given: 8)" in refused(capsys, *again, "--epochs", "5", "--hidden-size", "8")


def test_a_longer_run_says_what_becomes_of_the_plateau_and_of_early_stopping(
    text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "tail_estimate", lambda *_: 2.0)
    settings = [*SETTINGS, "--schedule", "plateau", "--plateau-patience", "0", "--early-stopping", "2"]
    again = ["train", str(text), "--run", str(tmp_path / "run"), *settings]
    assert main([*again, "--epochs", "4"]) == 0
    told = r"no progress in 2 evaluations: stopped early at step \d+; --resume with more than (\d) --epochs goes on\n"
    assert re.findall(told, capsys.readouterr().out) == ["4"]
    assert main([*again, "--epochs", "6", "--resume"]) == 0
    out = capsys.readouterr().out
    assert (
        "6 epochs instead of 4: the learning rate stays as it is until the validation loss stops falling; "
        "--early-stopping 2 counts evaluations anew\n"
    ) in out
    assert re.findall(told, out) == ["6"]


def test_a_file_whose_name_is_no_utf8_becomes_a_run_and_a_bundle(text: Path, tmp_path: Path, capsys: Capture) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    shutil.copy(text, file)
    assert main(["train", str(file), "--run", str(tmp_path / "run"), *SETTINGS]) == 0
    assert r"caf\xe9.txt: 8,000 characters" in capsys.readouterr().out
    decoders = ["--decoders", "onnx-fp32", "--no-inspector"]
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), *decoders]) == 0
    assert read_bundle(tmp_path / "bundle").manifest.training["corpus"]["name"] == r"caf\xe9.txt"


def test_a_folder_is_read_as_its_flags_say_and_its_bad_files_are_counted(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "A.MD").write_text("Größe und Maß. " * 300, "cp1252")
    (folder / "b.md").write_bytes(b"")
    (folder / ".c.md").write_text("hidden", "cp1252")
    how = ["--include", "*.md", "--skip-bad", "--encoding", "cp1252"]
    assert main(["train", str(folder), "--run", str(tmp_path / "run"), *SETTINGS, *how]) == 0
    out = capsys.readouterr().out
    assert "texts: 4,500 characters" in out
    assert "files left out, empty or not cp1252: 1\n" in out
    assert main(["train", str(folder), "--run", str(tmp_path / "run"), "--resume"]) == 0  # the run knows the flags
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--text", str(folder), *how, "--json"]) == 0
    error = refused(capsys, "evaluate", tmp_path / "run", "--text", folder, "--include", "*.md")
    assert "A.MD is not UTF-8: byte 0xf6" in error
