"""What `charloom train` reads, and what it starts from, called in this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charloom.bundle import DecoderKind, read_bundle, read_vocabulary, write_vocabulary
from charloom.cli.main import main
from charloom.export import export_bundle
from charloom.training.checkpoint import load_trained, read_checkpoint, write_checkpoint
from charloom.training.data import corpus as corpus_module
from charloom.training.evaluate import tail_estimate
from charloom.training.run_directory import load_validation
from charloom.training.run_lock import RunLock
from charloom.training.watching.figures import loss_figures
from charloom.training.watching.terminal import TerminalReporter
from tests.integration.commands import Capture, refused
from tests.integration.test_training_commands import SETTINGS

ONE_EPOCH = [*SETTINGS, "--epochs", "1", "--validation-share", "0.02"]
"""The validation part is too short for windows, which take time where they start documents."""


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """The command takes over SIGINT and SIGTERM; the tests after it need them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files, one of them in a folder of its own."""
    path, text = tmp_path_factory.mktemp("data") / "texts", text_file.read_text("utf-8")
    (path / "b").mkdir(parents=True)
    (path / "a.txt").write_text(text[:3000] + "END", "utf-8")
    (path / "b" / "b.txt").write_text(text[3000:6000] + "\n", "utf-8")
    (path / "c.txt").write_text(text[6000:9000], "utf-8")
    return path


@pytest.fixture(scope="module")
def small_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("earlier") / "run"
    assert main(["train", str(folder), "--run", str(run), *ONE_EPOCH]) == 0
    return run


def train(*arguments: object) -> int:
    return main(["train", *map(str, arguments)])


def test_a_folder_is_one_text_and_so_are_its_files(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [folder / "a.txt", folder / "b" / "b.txt", folder / "c.txt"]
    assert train(folder, "--run", tmp_path / "folder", *ONE_EPOCH) == 0
    assert "texts: 9,005 characters" in capsys.readouterr().out  # one newline between the first two files
    assert train(*files, "--run", tmp_path / "files", *ONE_EPOCH) == 0
    assert "a.txt and 2 more: 9,005 characters" in capsys.readouterr().out
    ends = [(tmp_path / name / "best.safetensors").read_bytes()[-5000:] for name in ("folder", "files")]
    assert ends[0] == ends[1]


def test_standard_input_is_kept_for_the_resume(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, raw = tmp_path / "run", (folder / "a.txt").read_bytes() * 3

    class Stdin:
        buffer = io.BytesIO(raw)

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Stdin)
        patched.setattr(TerminalReporter, "step", lambda *_: signal.raise_signal(signal.SIGINT))
        assert train("-", "--run", run, *ONE_EPOCH, "--documents", "line") == 130
    assert f"charloom train - --run {run} --resume --threads 1 --device cpu\n" in capsys.readouterr().out
    assert (run / "input.txt").read_bytes() == raw

    def never(*_: object) -> None:
        raise AssertionError("the tokens are there already")

    monkeypatch.setattr(corpus_module, "_encoded", never)
    assert train("-", "--run", run, "--resume") == 0
    assert "done" in capsys.readouterr().out
    (run / "input.txt").unlink()
    assert "has no input.txt" in refused(capsys, "train", "-", "--run", run, "--resume")


def test_a_directory_that_another_process_begins_to_use_is_refused_before_standard_input_is_kept(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, input_file = tmp_path / "run", tmp_path / "run" / "input.txt"
    lock = RunLock(run)
    input_file.write_text("what the other process has read")

    class Stdin:
        buffer = io.BytesIO(b"something else")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert f"another process is training in {run}" in refused(capsys, "train", "-", "--run", run, *ONE_EPOCH)
    assert input_file.read_text() == "what the other process has read"
    lock.release()
    assert "fewer than the" in refused(capsys, "train", "-", "--run", run, *ONE_EPOCH)
    assert input_file.is_file()  # the directory was there before
    RunLock(run)


def test_documents_are_counted_evaluated_and_exported(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(folder, "--run", run, "--documents", "blank-line", *ONE_EPOCH) == 0
    out = capsys.readouterr().out
    validation = load_validation(run)
    assert validation.starts is not None
    text = "".join(path.read_text("utf-8") + "\n\n" for path in sorted(folder.rglob("*.txt")))
    count = len(list(_blocks(text)))
    assert f" {count:,} documents, " in out
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    short = tmp_path / "short.txt"
    short.write_text("A paragraph of two\nlines.\n\nAnother one.")
    assert main(["evaluate", str(run), "--json", "--text", str(short), str(short)]) == 0
    twice = json.loads(capsys.readouterr().out)
    assert twice["tail"] != found["tail"]
    assert main(["export", str(run), str(tmp_path / "model"), "--decoders", "onnx-fp32"]) == 0
    manifest = read_bundle(tmp_path / "model").manifest
    assert manifest.validation["tail"]["onnx-fp32"] == pytest.approx(found["tail"], abs=1e-4)
    assert manifest.training["config"]["documents"] == "blank-line"


def _blocks(text: str) -> Iterator[str]:
    block = ""
    for line in [*text.split("\n"), ""]:
        if line.strip():
            block += line
        elif block:
            yield block
            block = ""


def test_a_run_starts_from_another_one_s_weights_and_says_what_it_began_with(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = tmp_path / "other.txt"
    other.write_text((folder / "c.txt").read_text("utf-8") + (folder / "c.txt").read_text("utf-8")[:2000], "utf-8")
    bundle = tmp_path / "model"
    kinds = [DecoderKind.ONNX_FP32]
    export_bundle(load_trained(small_run), load_validation(small_run), bundle, name="model", decoders=kinds)
    given = ["--batch-size", 8, "--sequence-length", 16, "--epochs", 1, "--device", "cpu"]
    lines = []
    for number, source in enumerate((small_run, bundle)):
        run = tmp_path / f"run{number}"
        assert train(other, "--run", run, "--initial-weights", source, *given) == 0  # sizes and vocabulary are its own
        lines.append(next(line for line in capsys.readouterr().out.splitlines() if "(initial weights)" in line))
        assert read_vocabulary(run / "vocabulary.json").to_json() == read_bundle(bundle).vocabulary.to_json()
        assert load_trained(run).facts["config"]["hidden_size"] == 16
    began_with = tail_estimate(load_trained(small_run).model, load_validation(run))
    assert lines[0] == lines[1] == f"epoch   0.00  step 0  validation {loss_figures(began_with)}  (initial weights)"
    assert train(other, "--run", run, "--resume") == 0
    assert "step 0" not in capsys.readouterr().out


def test_a_vocabulary_is_taken_with_its_unit_and_form(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    assert train(folder / "c.txt", "--run", run, "--vocabulary", small_run, *ONE_EPOCH, "--batch-size", "4") == 0
    assert (
        read_vocabulary(run / "vocabulary.json").to_json() == read_vocabulary(small_run / "vocabulary.json").to_json()
    )
    assert "(initial weights)" not in capsys.readouterr().out
    (tmp_path / "strange.txt").write_text((folder / "c.txt").read_text("utf-8") + "ψψ夜", "utf-8")
    error = refused(capsys, "train", tmp_path / "strange.txt", "--run", tmp_path / "no", "--vocabulary", small_run)
    assert "3 character(s) of strange.txt are not in the model's vocabulary: 'ψ' (U+03C8) 2 times, '夜'" in error
    assert not (tmp_path / "no").exists()


def masked(run: Path, copy: Path) -> Path:
    """The same run, as if it had learnt with its numbers masked."""
    shutil.copytree(run, copy)
    checkpoint = read_checkpoint(copy / "best.safetensors")
    checkpoint.facts["config"]["mask"] = "numbers"
    write_checkpoint(copy / "best.safetensors", checkpoint)
    return copy


def test_a_mask_is_taken_with_the_weights_and_with_the_vocabulary(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    source, bundle = masked(small_run, tmp_path / "masked"), tmp_path / "model"
    kinds = [DecoderKind.ONNX_FP32]
    export_bundle(load_trained(source), load_validation(source), bundle, name="model", decoders=kinds)
    given = [*SETTINGS[-2:], "--batch-size", 4, "--sequence-length", 16, "--epochs", 1, "--validation-share", 0.02]
    sizes = SETTINGS[:6]
    ways: list[tuple[list[Any], str]] = [
        (["--initial-weights", source], "numbers"),
        (["--initial-weights", bundle], "numbers"),
        (["--initial-weights", small_run, "--preset", "log"], "none"),
        (["--vocabulary", source, *sizes], "numbers"),
        (["--vocabulary", source, "--mask", "digits", *sizes], "digits"),
        (["--vocabulary", small_run, "--mask", "digits", *sizes], "digits"),
    ]
    for number, (flags, mask) in enumerate(ways):
        run = tmp_path / f"run{number}"
        assert train(folder / "c.txt", "--run", run, *flags, *given) == 0, flags
        assert json.loads((run / "config.json").read_text())["mask"] == mask, flags
    error = refused(capsys, "train", folder, "--run", tmp_path / "no", "--initial-weights", source, "--mask", "none")
    assert f"--mask none: {source} has numbers; leave the flag out, or start from another one" in error
    error = refused(
        capsys, "train", folder, "--run", tmp_path / "no", "--initial-weights", source, "--teacher", small_run
    )
    assert f"of {source} learnt with --mask numbers, and the teacher {small_run} with none; give two" in error
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vocabulary-size", "50"], "--vocabulary-size is for unit word"),
        (
            ["--vocabulary-size", "2", "--unit", "word"],
            "--vocabulary-size 2: Input should be greater than or equal to 3",
        ),
        (["--vocabulary", "RUN", "--unit", "word", "--vocabulary-size", "50"], "--vocabulary-size: the vocabulary of"),
        (["--vocabulary", "RUN", "--unit", "byte"], "--unit byte: {run} has character; leave the flag out"),
        (["--vocabulary", "RUN", "--normalise", "nfc"], "--normalise nfc: {run} has none; leave the flag out"),
        (["--initial-weights", "RUN", "--layers", "3"], "--layers 3: {run} has 1; leave the flag out"),
        (["--initial-weights", "RUN", "--vocabulary", "OTHER"], "belong to its own vocabulary, which is not that of"),
        (["--vocabulary", "NOTHING"], "is neither a run nor a bundle: it has no vocabulary.json"),
        (["--initial-weights", "NOTHING"], "is neither a run nor a bundle"),
        (["--initial-weights", "OTHER"], "there is no checkpoint"),
        (["--resume", "--vocabulary", "RUN"], "--vocabulary: a resumed run goes on with its own; leave it out"),
        (["--resume", "--initial-weights", "RUN"], "--initial-weights: a resumed run goes on with its own"),
        (["--plateau-patience", "0"], "--plateau-patience: the schedule is cosine; give --schedule plateau, or leave"),
        (["--plateau-factor", "0.1", "--schedule", "cosine"], "--plateau-factor: the schedule is cosine"),
        (
            ["--schedule", "plateau", "--early-stopping", "3"],
            "--early-stopping 3: the run would end before --schedule plateau reduces the rate, with evaluation 3 "
            "without progress; give at least 4, or a lower --plateau-patience",
        ),
        (
            ["--variational-dropout", "--dropout", "0"],
            "there is no dropout; give --dropout above 0, or leave it out",
        ),
        (["--preset", "tiny", "--variational-dropout"], "--variational-dropout: there is no dropout"),
        (["--documents", "page"], "--documents page: Input should be 'stream', 'file', 'blank-line' or 'line'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_contradict_each_other_are_refused_before_the_text_is_read(
    flags: list[str], message: str, small_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "other").mkdir()
    vocabulary = read_vocabulary(small_run / "vocabulary.json")
    write_vocabulary(tmp_path / "other" / "vocabulary.json", type(vocabulary)(list("ab")))  # type: ignore[call-arg]
    places = {"RUN": small_run, "OTHER": tmp_path / "other", "NOTHING": tmp_path / "nothing"}
    given = [places.get(flag, flag) for flag in flags]
    error = refused(capsys, "train", tmp_path / "is-not-read.txt", "--run", tmp_path / "run", *given)
    assert message.format(run=small_run) in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [["--include", "*.md"], ["--skip-bad"]], ids=" ".join)
def test_flags_that_choose_files_of_a_folder_are_refused_without_one(
    flags: list[str], folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    message = f"{flags[0]}: it chooses among the files of a folder, and none is given; give a folder, or leave it out"
    assert message in refused(capsys, "train", folder / "a.txt", "-", "--run", tmp_path / "run", *flags)
    assert message in refused(capsys, "evaluate", tmp_path / "run", "--text", folder / "a.txt", *flags)
    assert "there is no file" in refused(capsys, "train", folder, "--run", tmp_path / "run", "--include", "*.no")


def test_a_bundle_or_a_project_is_not_trained_over(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, message in {"manifest.json": "holds a bundle", "config.json": "holds files that are of no run"}.items():
        (tmp_path / name).write_text("mine")
        for text in (folder, tmp_path / "is-not-read.txt"):
            assert message in refused(capsys, "train", text, "--run", tmp_path, *ONE_EPOCH)
        assert [file.name for file in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_standard_input_is_read_once(tmp_path: Path, capsys: Capture) -> None:
    assert "standard input (-) can be read once" in refused(capsys, "train", "-", "-", "--run", tmp_path / "run")


def test_a_bundle_without_weights_cannot_be_started_from(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    bundle, kinds = tmp_path / "model", [DecoderKind.ONNX_FP32]
    trained, validation = load_trained(small_run), load_validation(small_run)
    export_bundle(trained, validation, bundle, name="model", decoders=kinds, include_weights=False)
    error = refused(capsys, "train", folder, "--run", tmp_path / "run", "--initial-weights", bundle)
    assert "has no weights.safetensors; export it again without --no-weights, or give its run" in error
    assert train(folder, "--run", tmp_path / "run", "--vocabulary", bundle, *ONE_EPOCH) == 0


def test_weights_of_other_shapes_are_refused_in_one_line(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing says what they were made with, the shapes themselves do."""
    monkeypatch.setattr("charloom.training.initial.SHAPE", ())
    arguments: list[Any] = [folder, "--run", tmp_path / "run", "--initial-weights", small_run, *ONE_EPOCH]
    error = refused(capsys, "train", *arguments, "--hidden-size", 24)
    assert "the initial weights do not fit the settings: " in error
    assert "size mismatch for head.weight" in error
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_changes_nothing_in_a_directory_that_holds_one(
    small_run: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert "already holds a run" in refused(capsys, "train", folder / "a.txt", "--run", run, *ONE_EPOCH)
    assert "was trained on another text" in refused(capsys, "train", folder / "a.txt", "--run", run, "--resume")
    error = refused(capsys, "train", folder, "--run", run, "--resume", "--documents", "line")
    assert "these differ: documents (run: 'stream', given: 'line')" in error
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_pipe_is_refused_because_a_text_is_read_more_than_once(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = refused(capsys, "train", tmp_path / "pipe", "--run", tmp_path / "run", *ONE_EPOCH)
    assert "is a pipe or device, and can be read only once; give - and pipe the text in" in error
    assert not (tmp_path / "run").exists()
