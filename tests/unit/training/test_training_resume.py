"""A resumed run is the run that never stopped: the same weights, the same log, bit for bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from charloom.bundle import Mask
from charloom.training import checkpoint, loop
from charloom.training.checkpoint import Checkpoint, load_trained, read_checkpoint, write_checkpoint
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import Corpus
from charloom.training.files import CheckpointError
from charloom.training.loop import Trainer
from charloom.training.records import Evaluation
from charloom.training.run_directory import BEST_FILE, LAST_FILE, load_validation
from tests.unit.training.training_runs import (
    HAS_BF16,
    Recorder,
    assert_same_checkpoint,
    corpus_of,
    needs_bf16,
    tiny_config,
    train,
)

PER_EPOCH = 28
"""Steps of one epoch of `CORPUS_SIZE` characters with the settings below."""
CORPUS_SIZE = 4000


RUNS = ["cosine", "plateau", *(["cosine-bf16"] if HAS_BF16 else [])]
"""A schedule, and the precision where it is not fp32."""


def config_of(run: str) -> TrainingConfig:
    schedule, _, precision = run.partition("-")
    return tiny_config(
        schedule=schedule,
        precision=precision or "fp32",
        epochs=3,
        evaluations_per_epoch=3,
        checkpoint_every=1000,
        plateau_patience=0,
        plateau_factor=0.5,
        learning_rate=0.5,  # so high that the loss does not only fall, and the plateau schedule has something to do
    )


@pytest.fixture(scope="module")
def corpus(text_file: Path) -> Corpus:
    return corpus_of(text_file.read_text("utf-8")[:CORPUS_SIZE])


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each run from start to end."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    for run in RUNS:
        outcome, _ = train(config_of(run), corpus, directory / run)
        assert outcome.step == 3 * PER_EPOCH
    return {run: directory / run for run in RUNS}


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [line | {"seconds": 0, "tokens_per_second": 0, "memory_bytes": 0} for line in lines]


def assert_same_run(left: Path, right: Path) -> None:
    assert_same_checkpoint(left / LAST_FILE, right / LAST_FILE)
    assert_same_checkpoint(left / BEST_FILE, right / BEST_FILE)
    assert log_of(left) == log_of(right)


@pytest.mark.parametrize("whole", ["cosine", "plateau", pytest.param("cosine-bf16", marks=needs_bf16)])
@pytest.mark.parametrize(
    "stops",
    [[1], [PER_EPOCH], [13], [PER_EPOCH + 4, 2 * PER_EPOCH - 1, 2 * PER_EPOCH, 2 * PER_EPOCH + 1]],
    ids=["after-the-first-step", "at-an-epoch-s-end", "inside-an-epoch", "often"],
)
def test_a_stopped_and_resumed_run_ends_bit_for_bit_like_the_uninterrupted_one(
    whole: str, stops: list[int], corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    config, run = config_of(whole), tmp_path / "run"
    for index, stop in enumerate(stops):
        torch.rand(index + 1)  # another process has drawn other random numbers
        outcome, _ = train(config, corpus, run, resume=index > 0, stop_after=stop)
        assert (outcome.finished, outcome.step) == (False, stop)
    outcome, recorder = train(config, corpus, run, resume=True)
    assert outcome.finished
    assert [s.step for s in recorder.steps] == list(range(stops[-1] + 1, 3 * PER_EPOCH + 1))
    assert_same_run(run, uninterrupted[whole])


def test_the_runs_compared_here_use_what_a_resume_must_restore(uninterrupted: dict[str, Path]) -> None:
    plateau = read_checkpoint(uninterrupted["plateau"] / LAST_FILE).facts["plateau"]
    assert plateau["factor"] < 1
    checkpoint = read_checkpoint(uninterrupted["cosine"] / LAST_FILE)
    assert checkpoint.facts["config"]["dropout"] > 0
    assert checkpoint.tensors["state.h"].any()
    for name, run in uninterrupted.items():
        precision = "bf16" if name.endswith("bf16") else "fp32"
        assert read_checkpoint(run / LAST_FILE).facts["precision"] == precision
    assert {line["best"] for line in log_of(uninterrupted["plateau"])} == {True, False}


@pytest.mark.parametrize("stop", [5, 13], ids=["before-the-first-evaluation", "after-it"])
def test_a_checkpoint_of_before_with_each_step_since_the_evaluation_is_resumed_exactly(
    stop: int, corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    config, run = config_of("plateau"), tmp_path / "run"
    _, recorder = train(config, corpus, run, stop_after=stop)
    evaluated = recorder.evaluations[-1].step if recorder.evaluations else 0
    saved = read_checkpoint(run / LAST_FILE)
    steps = [[s.loss, s.gradient_norm, s.gradient_norms] for s in recorder.steps[evaluated:]]
    assert saved.facts["recent"]["steps"] == len(steps) == stop - evaluated
    saved.facts["recent"] = steps
    del saved.facts["plateau"]["warmup"]
    write_checkpoint(run / LAST_FILE, saved)
    train(config, corpus, run, resume=True)
    assert_same_run(run, uninterrupted["plateau"])


def test_a_checkpoint_does_not_grow_with_the_steps_since_the_last_evaluation(corpus: Corpus, tmp_path: Path) -> None:
    sizes = []
    for stop in (1, 25):
        train(tiny_config(precision="fp32"), corpus, tmp_path / str(stop), stop_after=stop)
        sizes.append((tmp_path / str(stop) / LAST_FILE).stat().st_size)
    assert sizes[1] < sizes[0] + 100


def test_a_checkpoint_that_its_format_refuses_is_told_and_leaves_the_one_before(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(config_of("cosine"), corpus, run, stop_after=3)

    def refused(*_: object, **__: object) -> bytes:
        raise SafetensorError("the header is too large")

    monkeypatch.setattr(checkpoint, "save", refused)
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.safetensors: the header is too large; what was"):
        train(config_of("cosine"), corpus, run, resume=True)
    assert read_checkpoint(run / LAST_FILE).facts["step"] == 3


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_run_that_is_killed_before_any_of_its_writes_goes_on_like_the_uninterrupted_one(
    write: int,
    corpus: Corpus,
    uninterrupted: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, writes = tmp_path / "run", itertools.count(1)

    def killed(path: Path, checkpoint: Checkpoint) -> None:
        if next(writes) == write:
            raise Killed
        write_checkpoint(path, checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "write_checkpoint", killed)
        with pytest.raises(Killed):
            train(config_of("cosine"), corpus, run)
    outcome, _ = train(config_of("cosine"), corpus, run, resume=(run / LAST_FILE).exists())
    assert outcome.finished
    assert_same_run(run, uninterrupted["cosine"])


def test_an_evaluation_is_told_when_its_weights_are_kept(corpus: Corpus, tmp_path: Path) -> None:
    class Ending(Recorder):
        def evaluation(self, evaluation: Evaluation) -> None:
            raise Killed

    run = tmp_path / "run"
    with pytest.raises(Killed):
        Trainer(config_of("cosine"), corpus, run).train(Ending())
    (line,) = log_of(run)
    assert [read_checkpoint(run / file).facts["step"] for file in (LAST_FILE, BEST_FILE)] == [line["step"]] * 2


def test_resuming_a_finished_run_changes_nothing(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    outcome, recorder = train(config_of("cosine"), corpus, run, resume=True)
    assert outcome.finished
    assert recorder.steps == []
    assert_same_run(run, uninterrupted["cosine"])


def copy_of(run: Path, directory: Path) -> Path:
    copied = directory / "copy"
    copied.mkdir()
    for file in run.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


def resume_refusal(config: TrainingConfig, corpus: Corpus, run: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Trainer(config, corpus, run, resume=True)
    return str(caught.value)


def test_a_run_that_was_never_started_cannot_be_resumed(corpus: Corpus, tmp_path: Path) -> None:
    message = resume_refusal(config_of("cosine"), corpus, tmp_path / "run")
    assert "there is no checkpoint" in message
    assert "give the directory of a run" in message


def test_another_text_is_refused(uninterrupted: dict[str, Path]) -> None:
    message = resume_refusal(config_of("cosine"), corpus_of("abc" * 2000), uninterrupted["cosine"])
    assert "was trained on another text; resume it with the same file" in message


def test_other_settings_are_refused_each_with_both_values(corpus: Corpus, uninterrupted: dict[str, Path]) -> None:
    changed = config_of("cosine").model_copy(update={"dropout": 0.25, "hidden_size": 32})
    message = resume_refusal(changed, corpus, uninterrupted["cosine"])
    assert "dropout (run: 0.3, given: 0.25)" in message
    assert "hidden_size (run: 16, given: 32)" in message
    assert "learning_rate" not in message


def with_config(run: Path, directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose last checkpoint tells other settings."""
    copied = copy_of(run, directory)
    checkpoint = read_checkpoint(copied / LAST_FILE)
    change(checkpoint.facts["config"])
    write_checkpoint(copied / LAST_FILE, checkpoint)
    return copied


def test_a_setting_that_the_run_does_not_know_had_its_default(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = with_config(uninterrupted["cosine"], tmp_path, lambda config: config.pop("mask"))  # as version 0.1 wrote it
    message = resume_refusal(config_of("cosine").model_copy(update={"mask": Mask.NUMBERS}), corpus, run)
    assert "a resumed run keeps its settings; these differ: mask (run: 'none', given: 'numbers')" in message
    outcome, _ = train(config_of("cosine"), corpus, run, resume=True)
    assert outcome.finished


def test_a_run_with_settings_that_this_version_lacks_is_refused(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = with_config(uninterrupted["cosine"], tmp_path, lambda config: config.update(heads=8))
    message = resume_refusal(config_of("cosine"), corpus, run)
    assert f"the checkpoint {run / LAST_FILE} has no usable settings" in message
    assert "heads Extra inputs are not permitted" in message
    assert "resume it with the version that wrote it" in message


def test_the_best_weights_in_place_of_the_last_checkpoint_cannot_be_resumed(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    (run / LAST_FILE).write_bytes((run / BEST_FILE).read_bytes())
    message = resume_refusal(config_of("cosine"), corpus, run)
    assert f"{run / LAST_FILE} has weights alone, as best.safetensors has, and cannot be resumed" in message
    assert f"start a new run with --initial-weights {run}" in message


def test_a_directory_that_holds_a_run_is_not_overwritten(corpus: Corpus, uninterrupted: dict[str, Path]) -> None:
    before = (uninterrupted["cosine"] / LAST_FILE).read_bytes()
    with pytest.raises(CheckpointError, match=r"already holds a run; resume it with `charloom train --resume`, or"):
        Trainer(config_of("cosine"), corpus, uninterrupted["cosine"])
    assert (uninterrupted["cosine"] / LAST_FILE).read_bytes() == before


def test_a_directory_with_nothing_but_a_best_checkpoint_is_not_overwritten(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    (run / LAST_FILE).unlink()
    with pytest.raises(CheckpointError, match="holds the weights of another run"):
        Trainer(config_of("cosine"), corpus, run)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["manifest.json", "vocabulary.json"], "{run} holds a bundle; choose another --run"),
        (["log.jsonl"], "{run} holds files that are of no run: log.jsonl; choose a new or empty directory as --run"),
        (
            ["train.log", "config.json", "input.txt", "src"],
            "{run} holds files that are of no run: config.json and 2 more; choose a",
        ),
    ],
)
def test_a_directory_with_other_files_is_refused_and_left_as_it_was(
    names: list[str], message: str, corpus: Corpus, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            Trainer(config_of("cosine"), corpus, tmp_path)
        assert str(caught.value).startswith(message.format(run=tmp_path))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_a_directory_with_hidden_files_and_what_a_shell_logs_there_is_empty(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "train.log").touch()
    train(config_of("cosine"), corpus, tmp_path, stop_after=1)
    assert (tmp_path / LAST_FILE).is_file()


def test_a_run_without_an_evaluation_is_told_to_go_on(corpus: Corpus, tmp_path: Path) -> None:
    train(config_of("cosine"), corpus, tmp_path / "run", stop_after=1)
    with pytest.raises(CheckpointError, match=r"was stopped before its first evaluation; go on with it \(`charloom"):
        load_trained(tmp_path / "run")


def test_a_directory_in_use_is_refused_and_its_run_is_not_disturbed(corpus: Corpus, tmp_path: Path) -> None:
    run, config = tmp_path / "run", tiny_config(epochs=1)
    refusals: list[str] = []

    def on_step(step: int) -> None:
        if step == 2:
            with pytest.raises(CheckpointError) as caught:
                Trainer(config, corpus, run)
            refusals.append(str(caught.value))

    outcome = Trainer(config, corpus, run).train(Recorder(on_step))
    assert refusals == [f"another process is training in {run}; choose another --run"]
    assert outcome.finished
    train(config, corpus, run, resume=True)  # and the lock is free again


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1], ids=str)
def test_a_checkpoint_cut_short_is_refused_with_what_to_do(
    keep: float, corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    content = (run / LAST_FILE).read_bytes()
    (run / LAST_FILE).write_bytes(content[: int(len(content) * keep) if keep == 0.5 else int(keep)])
    message = resume_refusal(config_of("cosine"), corpus, run)
    assert f"the checkpoint {run / LAST_FILE} is damaged or cut short" in message
    assert f"export {BEST_FILE} if it is whole" in message
    load_trained(run)  # as the message says


def test_a_safetensors_file_of_another_kind_is_refused(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    run = copy_of(uninterrupted["cosine"], tmp_path)
    save_file({"x": torch.zeros(1)}, run / LAST_FILE)
    assert "has schema None, this version reads 'charloom.checkpoint/2'" in resume_refusal(
        config_of("cosine"), corpus, run
    )


def test_a_checkpoint_that_does_not_fit_its_own_vocabulary_is_refused(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    (run / "vocabulary.json").write_text(json.dumps({"unit": "byte"}))
    with pytest.raises(CheckpointError, match=r"weights in .*best\.safetensors do not fit"):
        load_trained(run)


def test_validation_tokens_that_are_missing_or_damaged_are_refused(
    uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    run = copy_of(uninterrupted["cosine"], tmp_path)
    for damage in (lambda f: f.write_bytes(b"\x93NUMPY"), lambda f: f.write_bytes(b"text"), lambda f: f.unlink()):
        damage(run / "validation.npy")
        with pytest.raises(CheckpointError, match="cannot read the validation tokens"):
            load_validation(run)


def test_a_run_resumed_after_a_kill_logs_each_evaluation_once(
    corpus: Corpus, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    """A kill between an evaluation and the next checkpoint: simulated by putting an older checkpoint back."""
    config, run = config_of("cosine"), tmp_path / "run"
    train(config, corpus, run, stop_after=13)
    older = (run / LAST_FILE).read_bytes()
    train(config, corpus, run, resume=True, stop_after=30)
    (run / LAST_FILE).write_bytes(older)
    train(config, corpus, run, resume=True)
    assert_same_run(run, uninterrupted["cosine"])
