"""Each warning, provoked by a real run where one can do it in a second, by a history elsewhere; and healthy runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from charloom.training import loop
from charloom.training.learner import TrainingDiverged
from charloom.training.loop import Trainer
from charloom.training.records import Advice, Evaluation, Progress
from charloom.training.watching.advice import Adviser
from charloom.training.watching.history import read_warnings
from charloom.training.watching.watchers import WarningsFile, Watchers
from tests.unit.training.training_runs import PRECISIONS, Recorder, corpus_of, tiny_config


class Advised(Recorder):
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.advised: list[Advice] = []
        self.closed = 0

    def advice(self, advice: Advice) -> None:
        self.advised.append(advice)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAMPLE_LENGTH", 5)


def advised(text: str, run: Path, *, share: float = 0.1, **settings: Any) -> dict[str, Advice]:
    """What a real run is warned of, by cause."""
    config, watcher = tiny_config(**settings), Advised()
    trainer = Trainer(config, corpus_of(text, share=share), run)
    with Watchers([watcher, WarningsFile(run)], Adviser(config)) as watching:
        trainer.train(watching)
    assert read_warnings(run) == watcher.advised
    return {advice.cause: advice for advice in watcher.advised}


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3},
        {"cell": "peephole", "epochs": 1},
        {"cell": "layer-norm", "epochs": 1},
        {"layers": 1, "hidden_size": 32, "dropout": 0.2, "epochs": 4, "evaluations_per_epoch": 3},
        {"batch_size": 1, "dropout": 0, "epochs": 1, "evaluations_per_epoch": 4},
    ],
    ids=str,
)
def test_a_healthy_run_is_not_warned(settings: dict[str, Any], text_file: Path, tmp_path: Path) -> None:
    assert advised(text_file.read_text("utf-8")[:8000], tmp_path / "run", **settings) == {}


def test_a_rate_that_is_far_too_high_makes_the_loss_rise(text_file: Path, tmp_path: Path) -> None:
    found = advised(text_file.read_text("utf-8")[:8000], tmp_path / "run", epochs=2, learning_rate=3, warmup_steps=0)
    assert "may be too high. Lower --learning-rate, or raise --warmup-steps" in found["loss spike"].text


def test_a_gradient_that_is_always_clipped_is_told(text_file: Path, tmp_path: Path) -> None:
    """With a limit far below any gradient of a network that learns. (One that diverged has any gradient, or none.)"""
    found = advised(text_file.read_text("utf-8")[:8000], tmp_path / "run", epochs=2, gradient_clip=1e-3)
    assert found["clipped gradient"].severity == 1
    assert "of the steps of the last epoch were clipped. Raise --gradient-clip" in found["clipped gradient"].text


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gradient_hundreds_of_times_the_usual_is_told(precision: str, text_file: Path, tmp_path: Path) -> None:
    """The head's weights pass the gradient on: with weights that are 300 times as large it is 300 times as large.

    (All weights times 30 would saturate the gates, and the gradient of a saturated network is chance.)
    """
    config, watcher = tiny_config(epochs=1, dropout=0, precision=precision), Advised()
    trainer = Trainer(config, corpus_of(text_file.read_text("utf-8")[:8000]), tmp_path / "run")

    class Magnify(Recorder):
        def step(self, progress: Progress) -> None:
            if progress.step == 15:
                with torch.no_grad():
                    trainer.learner.model.head.weight *= 300

    with Watchers([Magnify(), watcher], Adviser(config)) as watching:
        trainer.train(watching)
    found = {advice.cause: advice for advice in watcher.advised}
    assert 16 <= found["exploding gradient"].step <= 20
    assert found["exploding gradient"].severity > 2.3  # 10 ** 2.3 = 200; told from 100 on
    assert "Lower --learning-rate or --gradient-clip" in found["exploding gradient"].text


def test_a_loss_that_was_too_high_from_the_start_is_a_spike_too(text_file: Path, tmp_path: Path) -> None:
    found = advised(text_file.read_text("utf-8")[:6000], tmp_path / "run", epochs=1, learning_rate=30, warmup_steps=0)
    assert found["loss spike"].step <= 20


def test_the_gradient_vanishes_on_its_way_through_sixteen_layers(text_file: Path, tmp_path: Path) -> None:
    found = advised(text_file.read_text("utf-8")[:5000], tmp_path / "run", layers=16, dropout=0, epochs=1)
    assert found.keys() == {"vanishing gradient"}
    text = found["vanishing gradient"].text
    assert text.startswith("the gradient of embedding, layer 1")
    assert "layer 16" not in text
    assert "Use fewer --layers or --cell layer-norm" in text


def test_a_rate_that_is_far_too_low_leaves_the_loss_flat(text_file: Path, tmp_path: Path) -> None:
    text = text_file.read_text("utf-8")[:6000]
    found = advised(text, tmp_path / "run", learning_rate=1e-7, epochs=8, hidden_size=8)
    assert found.keys() == {"flat loss"}
    assert "Change --learning-rate (--find-learning-rate suggests one)" in found["flat loss"].text


def test_a_small_text_without_dropout_is_learnt_by_heart(text_file: Path, tmp_path: Path) -> None:
    settings = {"hidden_size": 64, "dropout": 0, "epochs": 30, "learning_rate": 0.02, "batch_size": 4}
    found = advised(text_file.read_text("utf-8")[:1500], tmp_path / "run", share=0.3, **settings)
    assert found.keys() == {"overfitting"}
    assert "Raise --dropout or --weight-decay" in found["overfitting"].text
    assert "--early-stopping" in found["overfitting"].text


def test_a_run_that_diverges_is_told_to_all_watchers(text_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingDiverged) as caught:
        advised(text_file.read_text("utf-8")[:4000], run, learning_rate=1e38, warmup_steps=0, precision="fp32")
    (advice,) = read_warnings(run)
    assert (advice.cause, advice.text) == ("diverged", str(caught.value))
    for word in ("Lower --learning-rate or --gradient-clip", "--warmup-steps", "--precision fp32", "another --run"):
        assert word in advice.text


# Histories.


def steps(losses: Sequence[float], norms: Sequence[float] | None = None) -> list[Progress]:
    norms = norms or [0.3] * len(losses)
    return [
        Progress(number, 1000, number / 100, loss, 1e-3, norm, {"head": norm}, False, 1.0)
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)
    ]


def evaluation(number: int, **changes: Any) -> Evaluation:
    figures: dict[str, Any] = {
        "step": 100 * number,
        "epoch": number / 2,
        "train_loss": 3 - 0.1 * number,
        "validation_loss": 3 - 0.1 * number,
        "best": True,
        "learning_rate": 1e-2,
        "gradient_norms": {},
        "clipped_share": 0.0,
        "tokens_per_second": 1.0,
        "seconds": 1.0,
        "memory_bytes": 100,
        "sample": "",
    }
    return Evaluation(**figures | changes)


def told(history: Sequence[Evaluation | Progress]) -> list[tuple[str, int]]:
    adviser = Adviser(tiny_config())
    found = [
        advice
        for item in history
        for advice in (adviser.step(item) if isinstance(item, Progress) else adviser.evaluation(item))
    ]
    return [(advice.cause, advice.step) for advice in found]


def test_a_loss_that_jumps_late_is_a_spike_and_one_bad_step_is_none() -> None:
    quiet = [1.5 + 0.1 * math.sin(step) for step in range(200)]
    assert told(steps([*quiet, 4.0, *quiet])) == []
    assert told(steps([*quiet, *[2.3] * 10])) == [("loss spike", 210)]


def test_one_gradient_far_above_the_usual_is_an_explosion() -> None:
    norms = [0.3] * 100
    norms[55] = 29.0
    assert told(steps([2.0] * 100, norms)) == []
    norms[55] = 31.0
    assert told(steps([2.0] * 100, norms)) == [("exploding gradient", 56)]


def test_a_gradient_at_the_limit_does_not_vanish() -> None:
    assert told(steps([2.0] * 30, [1.1e-6] * 30)) == []
    assert told(steps([2.0] * 30, [0.9e-6] * 30)) == [("vanishing gradient", 20)]


@pytest.mark.parametrize(
    ("sizes", "warned"),
    [
        ([50, 100, 103, 106, 109, 112, 115], [700]),
        ([50, 100, 103, 106, 105, 109, 112, 115], []),  # not steadily
        ([50, 100, 101, 102, 103, 104, 105], []),  # not much
        ([50, 120, 100, 103, 106, 109, 112, 115, 118], []),  # to what it was once
        ([50, 120, 120, 120, 120, 120], []),  # the first one is not counted
        ([50, 100, 103, 106, 109, 112, 115, 118, 121, 124, 127, 130, 133], [700]),  # still the same cause
        ([50, 100, 103, 106, 109, 112, 115, 140, 170, 200], [700, 800, 1000]),  # worse and worse
    ],
)
def test_memory_that_grows_steadily(sizes: list[int], warned: list[int]) -> None:
    history = [evaluation(number, memory_bytes=size) for number, size in enumerate(sizes, start=1)]
    assert told(history) == [("growing memory", step) for step in warned]


def test_a_loss_is_flat_only_while_the_schedule_goes_on() -> None:
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.9985]
    flat = [evaluation(number, train_loss=loss) for number, loss in enumerate(losses, start=1)]
    assert told(flat) == [("flat loss", 700)]
    falling = [*flat[:-1], evaluation(7, train_loss=1.99)]
    assert told(falling) == []
    ending = [*flat[:-1], evaluation(7, train_loss=2.0, learning_rate=0.9e-3)]
    assert told(ending) == []


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    rising = [2.0, 2.1, 2.2, 2.3]

    def history(train: Sequence[float], validation: Sequence[float]) -> list[Evaluation]:
        pairs = enumerate(zip(train, validation, strict=True), start=1)
        return [evaluation(n, train_loss=t, validation_loss=v) for n, (t, v) in pairs]

    falling = [2.0, 1.9, 1.8, 1.7]
    assert told(history(falling, rising)) == [("overfitting", 400)]
    assert told(history(falling[:3], rising[:3])) == []
    assert told(history([*falling[:2], 1.95, 1.7], rising)) == []
    assert told(history(falling, [*rising[:2], 2.0, 2.3])) == []


def test_clipping_is_warned_of_after_an_epoch_of_it() -> None:
    assert told([evaluation(1, clipped_share=1.0)]) == []
    assert told([evaluation(1, clipped_share=1.0), evaluation(2, clipped_share=0.0)]) == []
    clipped = [evaluation(number, clipped_share=0.6) for number in range(1, 5)]
    assert told(clipped) == [("clipped gradient", 200)]


def test_a_resumed_run_is_not_told_the_same_again() -> None:
    clipped = [evaluation(number, clipped_share=0.6) for number in range(1, 5)]
    before = Adviser(tiny_config())
    advice = [advice for item in clipped[:2] for advice in before.evaluation(item)]
    assert len(advice) == 1
    after = Adviser(tiny_config(), clipped[:2], advice)
    assert [advice for item in clipped[2:] for advice in after.evaluation(item)] == []


def test_warnings_behind_the_last_checkpoint_are_dropped_by_a_resume(text_file: Path, tmp_path: Path) -> None:
    run, corpus = tmp_path / "run", corpus_of(text_file.read_text("utf-8")[:4000])
    trainer = Trainer(tiny_config(epochs=1), corpus, run)
    trainer.train(Recorder(lambda step: trainer.stop() if step == 5 else None))
    kept, late = Advice(5, "a", 1.0, "kept\u2028"), Advice(6, "b", 1.0, "late")
    for advice in (kept, late):
        WarningsFile(run).advice(advice)
    Trainer(tiny_config(epochs=1), corpus, run, resume=True).train(Recorder())
    assert read_warnings(run) == [kept]
