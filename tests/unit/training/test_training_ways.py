"""Steps in parts and in other precisions; averages, early stops, a log that was cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charloom.cli.main import main
from charloom.training import loop
from charloom.training.checkpoint import load_trained, read_checkpoint, write_checkpoint
from charloom.training.config import TrainingConfig
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import Corpus, read_corpus
from charloom.training.data.stream import Stream
from charloom.training.evaluate import tail_loss
from charloom.training.find_rate import find_learning_rate
from charloom.training.learner import Learner
from charloom.training.loop import Trainer
from charloom.training.presets import PRESETS
from charloom.training.run_directory import BEST_FILE, LAST_FILE
from charloom.training.soft_targets import write_soft_targets
from charloom.training.teachers import Teachers
from charloom.training.watching.history import read_evaluations
from tests.unit.training.training_runs import TINY_FLAGS, Recorder, checkpoint_tensors, corpus_of, tiny_config, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(text_file: Path) -> Corpus:
    return corpus_of(text_file.read_text("utf-8")[:4000])


def learner_after(steps: int, corpus: Corpus, **settings: Any) -> Learner:
    config = tiny_config(precision="fp32", **settings)
    learner = Learner(corpus.vocabulary.size, config, CPU)
    batches = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed)
    for step in range(steps):
        learner.step(step, batches.batch(step), 0.01)
    return learner


def test_a_batch_in_parts_is_the_same_step_and_carries_the_same_state(corpus: Corpus) -> None:
    whole, parts = (learner_after(3, corpus, dropout=0, accumulate=count).tensors() for count in (1, 4))
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_cold_start_is_a_step_from_the_zero_state_for_a_share_of_the_rows(corpus: Corpus) -> None:
    """With one step of the text, carried and zeroed states can be told apart by what the step leaves behind."""
    config = tiny_config(batch_size=64, sequence_length=1, dropout=0, cold_start=0.25)
    learner = Learner(corpus.vocabulary.size, config, CPU)
    batch = Batches(corpus.train, 64, 1, config.seed).batch(0)
    with torch.no_grad():
        h, c = learner.states[0]
        h.uniform_(0.5, 1), c.uniform_(5, 10)
    learner.step(0, batch, 0.0)
    of_rows = learner.states[0][1].abs().amax(dim=(0, 2))
    cold = int((of_rows < 1.01).sum())  # c of one step from zero is at most 1
    assert 5 <= cold <= 30
    assert int((of_rows > 1.5).sum()) == 64 - cold


def test_parts_have_random_numbers_of_their_own(corpus: Corpus) -> None:
    """The same text in both halves of a batch: only dropout can make their states differ."""
    config = tiny_config(accumulate=2, dropout=0.5, batch_size=8)
    learner = Learner(corpus.vocabulary.size, config, CPU)
    batch = Batches(corpus.train, 8, config.sequence_length, 0).batch(0)
    twice = batch._replace(inputs=np.tile(batch.inputs[:4], (2, 1)), targets=np.tile(batch.targets[:4], (2, 1)))
    learner.step(0, twice, 0.01)
    first, second = learner.states
    assert not torch.equal(first, second)


def test_the_average_follows_the_weights_and_is_what_is_evaluated_and_kept(corpus: Corpus, tmp_path: Path) -> None:
    decay, learner = 0.9, learner_after(0, corpus, average_decay=0.9)
    config = learner.config
    batches = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed)
    expected = torch.zeros(0)
    for step in range(25):
        learner.step(step, batches.batch(step), 0.01)
        now = learner.model.head.weight.detach()
        share = min(decay, (1 + step) / (10 + step))  # it follows faster while it is young
        expected = now.clone() if step == 0 else share * expected + (1 - share) * now
    torch.testing.assert_close(learner.evaluated.head.weight.detach(), expected)
    assert not torch.allclose(learner.model.head.weight, expected, atol=1e-4)

    train(tiny_config(average_decay=0.9, epochs=1), corpus, tmp_path / "run")
    last, best = (checkpoint_tensors(tmp_path / "run" / file) for file in (LAST_FILE, BEST_FILE))
    assert torch.equal(best["model.head.weight"], last["average.module.head.weight"])
    assert not torch.equal(best["model.head.weight"], last["model.head.weight"])
    load_trained(tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [
        {"average_decay": 0.95},
        {"accumulate": 2},
        {"cell": "layer-norm", "zoneout_cell": 0.2},
        {"cell": "gru", "zoneout_hidden": 0.2},
        {"cold_start": 0.3, "weight_drop": 0.2, "variational_dropout": True},
        {"documents": "blank-line"},
    ],
    ids=str,
)
def test_a_run_with_it_resumes_exactly(settings: dict[str, Any], text_file: Path, tmp_path: Path) -> None:
    config, text = tiny_config(epochs=1, **settings), tmp_path / "text.txt"
    text.write_text(text_file.read_text("utf-8")[:4000], "utf-8")
    corpus = read_corpus(text, config.unit, documents=config.documents)
    train(config, corpus, tmp_path / "whole")
    train(config, corpus, tmp_path / "parted", stop_after=11)
    train(config, corpus, tmp_path / "parted", resume=True)
    whole, parted = (checkpoint_tensors(tmp_path / name / LAST_FILE) for name in ("whole", "parted"))
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, parted[name])] == []


def test_fp16_scales_its_gradients_learns_and_resumes_exactly(corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_config(epochs=2, precision="fp16", cell="peephole")
    outcome, recorder = train(config, corpus, tmp_path / "whole")
    assert outcome.best_loss < recorder.steps[0].loss - 0.5
    assert read_checkpoint(tmp_path / "whole" / LAST_FILE).facts["learner"]["scaler"]["scale"] >= 1
    train(config, corpus, tmp_path / "parted", stop_after=9)
    train(config, corpus, tmp_path / "parted", resume=True)
    whole, parted = (checkpoint_tensors(tmp_path / name / LAST_FILE) for name in ("whole", "parted"))
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def test_a_step_that_fp16_leaves_out_does_not_move_the_average(corpus: Corpus) -> None:
    config = tiny_config(precision="fp16", cell="peephole", average_decay=0.9)
    learner = Learner(corpus.vocabulary.size, config, CPU)
    batch = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed).batch(0)
    overflow = learner.model.head.bias.register_hook(lambda gradient: gradient * torch.inf)
    assert learner.step(0, batch, 0.01).norm == torch.inf
    assert learner.tensors()["average.n_averaged"] == 0
    overflow.remove()
    learner.step(1, batch, 0.01)
    assert learner.tensors()["average.n_averaged"] == 1


def test_fp32_is_not_tf32_whatever_the_process_had_set(corpus: Corpus, tmp_path: Path) -> None:
    model = Learner(corpus.vocabulary.size, tiny_config(), CPU).model
    some = Stream(corpus.validation[:9])
    for compute in (
        lambda: Learner(corpus.vocabulary.size, tiny_config(), CPU),
        lambda: tail_loss(model, some),
        lambda: write_soft_targets(tmp_path, some, Teachers([model], corpus.vocabulary, []), CPU),
    ):
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        compute()
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"


def test_a_run_that_goes_on_in_another_precision_tells_it(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = tiny_config(epochs=1, validation_share=0.04), tmp_path / "run"
    train(config, read_corpus(text, config.unit, 0.04), run, stop_after=3)
    resume = ["train", str(text), "--run", str(run), "--resume", "--device", "cpu", "--threads", "1"]
    last = read_checkpoint(run / LAST_FILE)
    former, last.facts["precision"] = last.facts["precision"], "one of another machine"
    write_checkpoint(run / LAST_FILE, last)
    assert main(resume) == 0
    said = f"trained in one of another machine so far, goes on in {former} on this machine"
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(resume) == 0
    assert "so far" not in capsys.readouterr().out


def test_a_run_without_progress_stops_early_and_a_resumed_one_stays_stopped(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([3.0, 2.0, 2.5, 1.9, 2.0, 2.0, 1.0])
    monkeypatch.setattr(loop, "tail_estimate", lambda *_: next(values))
    config = tiny_config(epochs=9, early_stopping=2)
    outcome, recorder = train(config, corpus, tmp_path / "run")
    assert [e.validation_loss for e in recorder.evaluations] == [3.0, 2.0, 2.5, 1.9, 2.0, 2.0]
    assert (outcome.finished, outcome.stopped_early, outcome.best_loss) == (True, True, 1.9)
    again, recorder = train(config, corpus, tmp_path / "run", resume=True)
    assert (again.stopped_early, recorder.steps) == (True, [])


def test_a_run_that_stopped_early_is_made_longer_and_keeps_its_best_weights_meanwhile(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([2.0, 2.5, 2.5, 2.6, 1.9, 2.0, 2.0])
    monkeypatch.setattr(loop, "tail_estimate", lambda *_: next(values))
    run = tmp_path / "run"
    outcome, _ = train(tiny_config(epochs=5, early_stopping=2), corpus, run)
    assert (outcome.stopped_early, len(read_evaluations(run))) == (True, 3)
    best, longer = (run / BEST_FILE).read_bytes(), tiny_config(epochs=9, early_stopping=2)
    trainer = Trainer(longer, corpus, run, resume=True)
    trainer.stop()
    assert not trainer.train(Recorder()).finished  # before a step
    outcome, recorder = train(longer, corpus, run, resume=True, stop_after=outcome.step + 1)
    assert (outcome.finished, (run / BEST_FILE).read_bytes()) == (False, best)
    outcome, recorder = train(longer, corpus, run, resume=True)
    assert [e.validation_loss for e in recorder.evaluations] == [2.6, 1.9, 2.0, 2.0]
    assert (outcome.stopped_early, outcome.best_loss) == (True, 1.9)


def test_a_longer_run_goes_on_with_the_rate_that_the_plateau_left(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "tail_estimate", lambda *_: 2.0)
    settings = {"schedule": "plateau", "plateau_patience": 0, "warmup_steps": 200}
    _, recorder = train(tiny_config(epochs=2, **settings), corpus, tmp_path / "run")
    ended = recorder.steps[-1].step
    assert ended < 200  # all of it would be the warm-up of the longer run
    for epochs in (60, 61):
        _, recorder = train(
            tiny_config(epochs=epochs, **settings), corpus, tmp_path / "run", resume=True, stop_after=ended + 1
        )
        ended += 1
        assert [step.learning_rate for step in recorder.steps] == pytest.approx([0.01 / 2])


def test_a_run_of_before_whose_settings_would_be_refused_now_goes_on(text: Path, tmp_path: Path) -> None:
    idle = {"schedule": "plateau", "early_stopping": 2, "dropout": 0, "variational_dropout": True, "include": "*.md"}
    config, run = tiny_config(epochs=1, precision="fp32", validation_share=0.04, **idle), tmp_path / "run"
    train(config, read_corpus(text, config.unit, 0.04), run, stop_after=3)
    flags = ["--early-stopping", "2", "--variational-dropout", "--include", "*.md", "--plateau-patience", "2"]
    machine = ["--device", "cpu", "--threads", "1"]
    assert main(["train", str(text), "--run", str(run), "--resume", *flags, *machine]) == 0


def test_the_rate_that_is_found_learns_and_ten_times_more_is_near_the_breaking_point() -> None:
    corpus = corpus_of("the cat sat on the mat, and the dog lay under the table.\n" * 100)
    config = tiny_config(precision="fp32", epochs=1)
    found = find_learning_rate(config, corpus)
    rates = [trial.rate for trial in found.trials]
    assert rates == sorted(rates)
    assert found.suggestion == pytest.approx(found.lowest / 10)
    assert 1e-4 < found.suggestion < 0.1
    assert min(found.trials, key=lambda trial: trial.loss).rate == found.lowest
    assert found.trials[-1].loss > min(trial.loss for trial in found.trials) + 0.1  # it went on until it broke


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_holds_valid_settings_that_are_not_the_defaults(name: str) -> None:
    config, defaults = TrainingConfig.model_validate(PRESETS[name]), TrainingConfig()
    assert [key for key, value in PRESETS[name].items() if getattr(config, key) == getattr(defaults, key)] == []


def test_a_log_line_that_was_cut_short_does_not_keep_a_run_from_going_on(text: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", str(text), "--run", str(whole), *TINY_FLAGS]) == 0
    corpus = read_corpus(text, TrainingConfig().unit, 0.04)
    config = TrainingConfig.model_validate_json((whole / "config.json").read_text())
    train(config, corpus, run, stop_after=read_checkpoint(whole / LAST_FILE).facts["step"] - 1)
    for name in ("log.jsonl", "warnings.jsonl"):
        with (run / name).open("ab") as log:
            log.write('{"step": 1, "sample": "é'.encode()[:-1])
    assert main(["train", str(text), "--run", str(run), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    assert len(read_evaluations(run)) == len(read_evaluations(whole)) == 2
