"""Steps in parts, by several processes, in other precisions; averages, early stops, full disks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charloom.cli.main import main
from charloom.training import loop
from charloom.training.checkpoint import BEST_FILE, LAST_FILE, load_trained, read_checkpoint
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import Batches, Corpus, read_corpus
from charloom.training.find_rate import find_learning_rate
from charloom.training.learner import Learner
from charloom.training.presets import PRESETS
from charloom.training.watching.history import read_evaluations
from tests.unit.training.training_runs import checkpoint_tensors, corpus_of, tiny_config, train

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


FLAGS = [
    *("--layers", "2", "--hidden-size", "16", "--embedding-size", "8", "--batch-size", "8", "--sequence-length", "16"),
    *("--epochs", "1", "--warmup-steps", "3", "--precision", "fp32", "--device", "cpu", "--threads", "1"),
    *("--validation-share", "0.04", "--evaluations-per-epoch", "2", "--average-decay", "0.9"),
]


CHARLOOM = (sys.executable, "-W", "ignore", "-m", "charloom.cli.main")


def torchrun(
    *arguments: object, processes: int = 2, command: Sequence[object] = CHARLOOM
) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    run += [f"--nproc-per-node={processes}", "--", *map(str, command), "train", *map(str, arguments)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400, check=False)


def assert_close_runs(left: Path, right: Path, tolerance: float) -> None:
    one, other = read_checkpoint(left), read_checkpoint(right)
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], atol=tolerance, rtol=1e-3, msg=name)
    assert one.facts["step"] == other.facts["step"]


@pytest.fixture
def text(text_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(text_file.read_text("utf-8")[:6000], "utf-8")
    return path


def test_two_processes_take_the_steps_of_one_and_may_go_on_as_one(text: Path, tmp_path: Path) -> None:
    """Without dropout, the steps of one process with the whole batch; with it, those of one with two parts."""
    two, halves, whole = tmp_path / "two", tmp_path / "halves", tmp_path / "whole"
    done = torchrun(text, "--run", two, *FLAGS, "--dropout", "0.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1  # one of them speaks
    assert done.stdout.count("report: ") == 1
    assert (two / "report.html").is_file()
    assert main(["train", str(text), "--run", str(halves), *FLAGS, "--dropout", "0.3", "--accumulate", "2"]) == 0
    assert_close_runs(two / LAST_FILE, halves / LAST_FILE, 1e-6)
    assert_close_runs(two / BEST_FILE, halves / BEST_FILE, 1e-6)

    plain = tmp_path / "plain"
    assert torchrun(text, "--run", plain, *FLAGS, "--dropout", "0").returncode == 0
    assert main(["train", str(text), "--run", str(whole), *FLAGS, "--dropout", "0"]) == 0
    assert_close_runs(plain / LAST_FILE, whole / LAST_FILE, 1e-4)
    losses = [(run / "log.jsonl").read_text().count("\n") for run in (plain, whole)]
    assert losses[0] == losses[1] > 1


def test_a_run_of_two_processes_goes_on_in_one_and_the_other_way_round(text: Path, tmp_path: Path) -> None:
    """Without dropout a step is the same in any number of parts; a state of the whole batch is saved."""
    flags = [*FLAGS, "--dropout", "0", "--checkpoint-every", "5"]
    whole, two, one = tmp_path / "whole", tmp_path / "two", tmp_path / "one"
    assert main(["train", str(text), "--run", str(whole), *flags]) == 0
    stop = (
        "import sys\nfrom charloom.cli.main import main\nfrom charloom.training.loop import Trainer\n"
        "asked = Trainer._asked_to_stop\n"
        "Trainer._asked_to_stop = lambda self: (self.step == 12 and self.stop()) or asked(self)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "stop.py").write_text(stop)
    stopped = torchrun(text, "--run", two, *flags, command=[sys.executable, "-W", "ignore", tmp_path / "stop.py"])
    assert "stopped at step 12" in stopped.stdout, stopped.stderr
    assert main(["train", str(text), "--run", str(two), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    assert_close_runs(two / LAST_FILE, whole / LAST_FILE, 1e-4)

    alone = [sys.executable, "-W", "ignore", str(tmp_path / "stop.py"), "train", str(text), "--run", str(one), *flags]
    subprocess.run(alone, capture_output=True, timeout=400, check=False)
    assert read_checkpoint(one / LAST_FILE).facts["step"] == 12
    resumed = torchrun(text, "--run", one, "--resume", "--device", "cpu", "--threads", "1")
    assert resumed.returncode == 0, resumed.stderr
    assert_close_runs(one / LAST_FILE, whole / LAST_FILE, 1e-4)


def test_a_batch_that_processes_cannot_share_is_refused_by_all_of_them(text: Path, tmp_path: Path) -> None:
    done = torchrun(text, "--run", tmp_path / "run", *FLAGS, "--batch-size", "9")
    assert done.returncode != 0
    assert "batch_size 9 cannot be divided among 2 processes x 1 parts; choose a multiple of 2" in done.stderr
    assert not (tmp_path / "run" / LAST_FILE).exists()


def test_a_disk_that_fills_during_a_checkpoint_leaves_the_one_before(text: Path, tmp_path: Path) -> None:
    """The file size limit of the process stands for the full disk: a write behind it fails."""
    run = tmp_path / "run"
    arguments = ["train", str(text), "--run", str(run), *FLAGS, "--checkpoint-every", "1"]
    size_of_one = "import resource, sys\nfrom charloom.cli.main import main\nfrom charloom.training import loop\n"
    full_after_two = size_of_one + (
        "saved = loop.Trainer._save\n"
        "def save(self):\n"
        "    if self.step == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "    saved(self)\n"
        "loop.Trainer._save = save\n"
        f"sys.exit(main({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", full_after_two], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 1
    assert f"cannot write {run / LAST_FILE}: File too large; what was saved there before is whole" in done.stderr
    assert read_checkpoint(run / LAST_FILE).facts["step"] == 2
    assert [file.name for file in run.iterdir() if file.name.endswith(".partial")] == []
    assert main(["train", str(text), "--run", str(run), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    whole = tmp_path / "whole"
    assert main(["train", str(text), "--run", str(whole), *FLAGS, "--checkpoint-every", "1"]) == 0
    assert_close_runs(run / LAST_FILE, whole / LAST_FILE, 0)


@pytest.mark.parametrize("size", [100, 1000, 3000])
@pytest.mark.parametrize("flags", [[], ["--documents", "line"]], ids=["stream", "documents"])
def test_a_disk_that_is_full_before_the_first_step_is_said_in_one_line(
    size: int, flags: list[str], text: Path, tmp_path: Path
) -> None:
    """Whichever file does not fit: vocabulary, tokens, validation part, settings."""
    run = tmp_path / "run"
    run.mkdir()
    limited = (
        f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from charloom.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", limited, "train", text, "--run", run, *FLAGS, *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("charloom train: "), done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert [file.name for file in run.iterdir() if file.name.endswith(".partial")] == []


def test_a_log_line_that_was_cut_short_does_not_keep_a_run_from_going_on(text: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", str(text), "--run", str(whole), *FLAGS]) == 0
    corpus = read_corpus(text, TrainingConfig().unit, 0.04)
    config = TrainingConfig.model_validate_json((whole / "config.json").read_text())
    train(config, corpus, run, stop_after=read_checkpoint(whole / LAST_FILE).facts["step"] - 1)
    for name in ("log.jsonl", "warnings.jsonl"):
        with (run / name).open("ab") as log:
            log.write('{"step": 1, "sample": "é'.encode()[:-1])
    assert main(["train", str(text), "--run", str(run), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    assert len(read_evaluations(run)) == len(read_evaluations(whole)) == 2
