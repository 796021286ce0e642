"""A run on a CUDA device learns, can be stopped and resumed, and its weights are as good on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from charloom.training.checkpoint import load_trained
from charloom.training.evaluate import tail_estimate
from charloom.training.loop import Trainer
from tests.unit.devices import CUDA
from tests.unit.training.training_runs import Recorder, corpus_of, tiny_config

STOP = 100


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_learns_and_is_resumed(precision: str, device: str, text_file: Path, tmp_path: Path) -> None:
    corpus, config = corpus_of(text_file.read_text("utf-8")[:20_000]), tiny_config(precision=precision)
    trainer = Trainer(config, corpus, tmp_path / "run", device=device)
    begun = Recorder(lambda step: trainer.stop() if step == STOP else None)
    assert not trainer.train(begun).finished
    ended = Recorder()
    assert Trainer(config, corpus, tmp_path / "run", device=device, resume=True).train(ended).finished
    assert ended.steps[0].step == STOP + 1
    best = min(evaluation.validation_loss for evaluation in (*begun.evaluations, *ended.evaluations))
    assert best < 0.9 * begun.steps[0].loss
    on_cpu = tail_estimate(load_trained(tmp_path / "run").model, corpus.validation)
    assert on_cpu == pytest.approx(best, abs=0.01)
