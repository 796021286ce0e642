from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from charloom.bundle import DecoderKind, Unit, read_bundle
from charloom.export import export_bundle
from charloom.training import loop
from charloom.training.checkpoint import load_trained, read_checkpoint
from charloom.training.data.corpus import Corpus
from charloom.training.data.texts import CorpusError
from charloom.training.evaluate import tail_estimate
from charloom.training.learner import StepResult, StepSums, TrainingDiverged
from charloom.training.loop import Trainer
from charloom.training.run_directory import BEST_FILE, LAST_FILE, load_validation
from tests.unit.training.training_runs import (
    PRECISIONS,
    Recorder,
    checkpoint_tensors,
    corpus_of,
    tiny_config,
    train,
)


@pytest.fixture(scope="module")
def corpus(text_file: Path) -> Corpus:
    return corpus_of(text_file.read_text("utf-8")[:8000])


def scripted_losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let the evaluations of a run find these losses, whatever the model is."""
    remaining = iter(values)
    monkeypatch.setattr(loop, "tail_estimate", lambda *_: next(remaining))


def test_the_loss_falls_on_real_text(text_file: Path, tmp_path: Path) -> None:
    corpus = corpus_of(text_file.read_text("utf-8")[:40_000])
    config = tiny_config(hidden_size=64, embedding_size=32, layers=1, dropout=0, sequence_length=32, epochs=3)
    outcome, recorder = train(config, corpus, tmp_path / "run")
    first, last = recorder.steps[0].loss, float(np.mean([s.loss for s in recorder.steps[-10:]]))
    assert first == pytest.approx(math.log(corpus.vocabulary.size), abs=0.3)
    assert last < 2.6 < first - 1
    assert outcome.finished
    assert outcome.best_loss < 2.7  # far below what letter frequencies alone allow, about 3.1


def test_a_step_is_reported_with_its_number_rate_and_norm(corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_config(epochs=1)
    outcome, recorder = train(config, corpus, tmp_path / "run")
    total = Trainer(config, corpus, tmp_path / "other").total_steps
    assert [s.step for s in recorder.steps] == list(range(1, total + 1))
    assert {s.total_steps for s in recorder.steps} == {total}
    assert outcome.step == total
    assert [s.learning_rate for s in recorder.steps[:5]] == pytest.approx([0.01 * k / 5 for k in range(1, 6)])
    assert all(s.gradient_norm > 0 and s.tokens_per_second > 0 for s in recorder.steps)


def test_the_same_seed_gives_identical_weights_and_another_seed_others(corpus: Corpus, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        torch.rand(3)  # what was drawn before a run must not matter
        train(tiny_config(epochs=1, seed=seed), corpus, tmp_path / name)
    a, b, c = (checkpoint_tensors(tmp_path / name / LAST_FILE) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.head.weight"], c["model.head.weight"])


def test_the_state_is_carried_from_batch_to_batch_without_its_past(corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(dropout=0, precision="fp32"), corpus, tmp_path / "run")
    starts: list[torch.Tensor] = []

    def before_forward(module: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        if module.training:
            starts.append(inputs[1].clone())

    trainer.learner.model.register_forward_pre_hook(before_forward)
    ends: list[torch.Tensor] = []

    def on_step(step: int) -> None:
        assert trainer.learner.states[0].grad_fn is None
        assert not trainer.learner.states[0].requires_grad
        ends.append(trainer.learner.states[0].clone())

    trainer.train(Recorder(on_step))
    per_epoch = trainer.batches.per_epoch
    assert len(starts) == trainer.total_steps
    for step in range(trainer.total_steps):
        if step % per_epoch == 0:
            assert not starts[step].any()
        else:
            assert torch.equal(starts[step], ends[step - 1])
    assert ends[per_epoch - 1].any()


def test_clipping_limits_the_gradient_and_the_norm_before_it_is_reported(corpus: Corpus, tmp_path: Path) -> None:
    limit = 0.05
    trainer = Trainer(tiny_config(epochs=1, gradient_clip=limit), corpus, tmp_path / "run")
    applied: list[float] = []

    def on_step(_: int) -> None:
        gradients = [p.grad for p in trainer.learner.model.parameters() if p.grad is not None]
        applied.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    recorder = Recorder(on_step)
    trainer.train(recorder)
    reported = [s.gradient_norm for s in recorder.steps]
    assert max(reported) > 4 * limit
    assert applied == pytest.approx([min(norm, limit) for norm in reported], rel=1e-3)


def test_weight_decay_is_on_matrices_only(corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(weight_decay=0.3), corpus, tmp_path / "run")
    for group in trainer.learner._optimizer.param_groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
    counted = sum(p.numel() for group in trainer.learner._optimizer.param_groups for p in group["params"])
    assert counted == trainer.learner.model.parameter_count()


def test_each_evaluation_is_a_line_of_the_log_as_it_was_reported(corpus: Corpus, tmp_path: Path) -> None:
    _, recorder = train(tiny_config(evaluations_per_epoch=3), corpus, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    assert lines == [asdict(e) for e in recorder.evaluations]
    assert len(lines) >= 6
    previous = 0
    for evaluation in recorder.evaluations:
        losses = [s.loss for s in recorder.steps[previous : evaluation.step]]
        assert evaluation.train_loss == pytest.approx(float(np.mean(losses)))
        assert len(evaluation.sample) == loop.SAMPLE_LENGTH
        previous = evaluation.step
    assert previous == recorder.steps[-1].step  # the last step is evaluated
    assert recorder.evaluations[-1].epoch == 2.0


def test_steps_whose_gradient_is_not_finite_count_only_where_there_is_no_other() -> None:
    norms = [math.nan, math.inf, 2, 0.5, math.inf]
    steps = [StepResult(float(number), norm, {"head": norm}) for number, norm in enumerate(norms)]
    sums = StepSums()
    for step in steps[:2]:
        sums.add(step, 1.0)
    assert (sums.steps, sums.loss, sums.clipped) == (2, 1.0, 1)
    for step in steps[2:]:
        sums.add(step, 1.0)
    assert sums == StepSums(steps=2, loss=5.0, norms={"head": 2.5}, clipped=1, finite=True)
    assert StepSums.of(asdict(sums), 1.0) == StepSums.of(json.loads(json.dumps(steps)), 1.0) == sums


def test_the_best_checkpoint_is_that_of_the_lowest_evaluation(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_losses(monkeypatch, [3.0, 2.0, 2.5, 2.0, 2.2, 9.0, 9.0, 9.0])
    run = tmp_path / "run"
    trainer = Trainer(tiny_config(epochs=3, evaluations_per_epoch=2, checkpoint_every=1), corpus, run)
    at_second: dict[str, torch.Tensor] = {}

    def on_step(step: int) -> None:
        if step == trainer.batches.per_epoch:
            at_second.update({k: v.clone() for k, v in trainer.learner.model.state_dict().items()})

    recorder = Recorder(on_step)
    outcome = trainer.train(recorder)
    assert [e.best for e in recorder.evaluations[:5]] == [True, True, False, False, False]
    assert outcome.best_loss == 2.0
    best = read_checkpoint(run / BEST_FILE)
    assert (best.facts["step"], best.facts["validation_loss"]) == (trainer.batches.per_epoch, 2.0)
    for name, tensor in load_trained(run).model.state_dict().items():
        assert torch.equal(tensor, at_second[name])
    last = checkpoint_tensors(run / LAST_FILE)
    assert not torch.equal(last["model.head.weight"], at_second["head.weight"])


def test_the_best_weights_have_the_loss_that_was_reported(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome, recorder = train(tiny_config(evaluations_per_epoch=3), corpus, run)
    assert outcome.best_loss == min(e.validation_loss for e in recorder.evaluations)
    assert tail_estimate(load_trained(run).model, load_validation(run)) == pytest.approx(outcome.best_loss, abs=1e-6)


def test_the_plateau_schedule_lowers_the_rate_of_the_run(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_losses(monkeypatch, [3.0, 3.1, 3.1, 2.0, 2.0])
    config = tiny_config(schedule="plateau", epochs=4, plateau_patience=0, plateau_factor=0.5, warmup_steps=0)
    _, recorder = train(config, corpus, tmp_path / "run")
    per_epoch = len(recorder.steps) // 4
    rates = [recorder.steps[epoch * per_epoch].learning_rate for epoch in range(4)]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025])


def test_a_diverging_run_raises_with_step_and_advice(corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_config(learning_rate=1e38, warmup_steps=0, precision="fp32")
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf) at step \d+, .*Lower --learning-rate") as caught:
        train(config, corpus, tmp_path / "run")
    assert "before any weights were kept" in str(caught.value)
    assert "--initial-weights" not in str(caught.value)


def test_weights_that_became_nan_with_the_last_step_before_an_evaluation_are_not_saved(
    corpus: Corpus, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer = Trainer(tiny_config(epochs=2, checkpoint_every=10), corpus, run)

    def on_step(step: int) -> None:
        if step == trainer.total_steps:
            trainer.learner.model.head.bias.data.fill_(math.nan)

    with pytest.raises(TrainingDiverged, match=f"the validation loss is nan after step {trainer.total_steps}; "):
        trainer.train(Recorder(on_step))
    assert read_checkpoint(run / LAST_FILE).facts["step"] < trainer.total_steps
    assert math.isfinite(load_trained(run).facts["validation_loss"])


@pytest.mark.parametrize("asked", [1, 3, 10_000])
def test_an_epoch_has_as_many_evaluations_as_were_asked_for(asked: int, text_file: Path, tmp_path: Path) -> None:
    config = tiny_config(epochs=2, evaluations_per_epoch=asked, hidden_size=4)
    corpus = corpus_of(text_file.read_text("utf-8")[:2000])
    trainer = Trainer(config, corpus, tmp_path / "run")
    trainer.train(recorder := Recorder())
    per_epoch = trainer.batches.per_epoch
    assert len(recorder.evaluations) == 2 * min(asked, per_epoch)
    steps = [evaluation.step for evaluation in recorder.evaluations]
    assert per_epoch in steps
    assert max(np.diff([0, *steps])) <= -(-per_epoch // asked)


def test_a_diverging_run_keeps_the_best_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(tiny_config(evaluations_per_epoch=2, checkpoint_every=1000), corpus, run)
    poisoned = -(-trainer.batches.per_epoch // 2) + 3

    def on_step(step: int) -> None:
        if step == poisoned:
            trainer.learner.model.head.bias.data.fill_(math.nan)

    recorder = Recorder(on_step)
    with pytest.raises(TrainingDiverged, match=f"the loss is nan at step {poisoned}; .*{run}"):
        trainer.train(recorder)
    (evaluation,) = recorder.evaluations
    kept = load_trained(run)
    assert kept.facts["step"] == evaluation.step
    assert tail_estimate(kept.model, load_validation(run)) == pytest.approx(evaluation.validation_loss, abs=1e-6)


def test_a_text_too_short_for_a_batch_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="lower --batch-size"):
        Trainer(tiny_config(), corpus_of("abc" * 20), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_validation_part_too_short_to_measure_is_refused_before_training(tmp_path: Path) -> None:
    corpus = corpus_of("abc" * 200, share=1e-3)
    assert len(corpus.validation) == 1
    recorder = Recorder()
    with pytest.raises(CorpusError, match="--validation-share"):
        Trainer(tiny_config(), corpus, tmp_path / "run").train(recorder)
    assert recorder.steps == []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_precision_is_as_asked_and_recorded(precision: str, corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_config(epochs=1, precision=precision)
    train(config, corpus, tmp_path / "run")
    facts = read_checkpoint(tmp_path / "run" / BEST_FILE).facts
    assert facts["precision"] == precision
    assert facts["config"] == config.model_dump(mode="json")
    assert facts["corpus"] == {"name": "text.txt", "sha256": corpus.sha256, "characters": corpus.characters}


def test_tied_weights_stay_tied_through_training_checkpoint_and_loading(corpus: Corpus, tmp_path: Path) -> None:
    train(tiny_config(epochs=1, embedding_size=16, tie_weights=True), corpus, tmp_path / "run")
    tensors = checkpoint_tensors(tmp_path / "run" / LAST_FILE)
    assert torch.equal(tensors["model.head.weight"], tensors["model.embedding.weight"])
    model = load_trained(tmp_path / "run").model
    assert model.head.weight is model.embedding.weight


def test_bytes_of_any_language_are_trained_exported_and_read_back(tmp_path: Path) -> None:
    line = "Ο βίος βραχύς, ἡ δὲ τέχνη μακρή. 人生は短く、芸術は長し。🙂\n"
    corpus = corpus_of(line * 60, Unit.BYTE)
    config = tiny_config(unit="byte", hidden_size=48, layers=1, dropout=0, epochs=12, precision="fp32")
    outcome, recorder = train(config, corpus, tmp_path / "run")
    assert outcome.best_loss < 1.5 < math.log(256)
    assert any(ord(c) > 0x370 and c != "\ufffd" for c in recorder.evaluations[-1].sample)
    validation = load_validation(tmp_path / "run")
    assert bytes(validation.tolist()) == (line * 60).encode()[-len(validation) :]
    export_bundle(
        load_trained(tmp_path / "run"), validation, tmp_path / "b", name="bytes", decoders=[DecoderKind.ONNX_FP32]
    )
    bundle = read_bundle(tmp_path / "b")
    assert (bundle.manifest.unit, bundle.manifest.vocabulary_size, bundle.manifest.start_token) == (Unit.BYTE, 256, 10)
    assert bundle.vocabulary.decode(bundle.vocabulary.encode(line).tolist()) == line


def test_a_run_leaves_the_arithmetic_of_its_process_as_it_was(corpus: Corpus, tmp_path: Path) -> None:
    """Where they stay off, hypothesis' `st.floats` refuses to work in every test that comes after a training."""
    torch.set_flush_denormal(False)
    tiny = np.full(1, 1e-40, np.float32)
    assert (tiny * np.float32(2)).any()
    train(tiny_config(epochs=1), corpus, tmp_path / "run")
    assert (tiny * np.float32(2)).any()
