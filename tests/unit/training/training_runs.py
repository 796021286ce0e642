"""What the tests of training share: tiny runs, and which tokens float rounding allows a sampler to choose."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from charloom.bundle import Unit, vocabulary_of
from charloom.controls import Effect, controls
from charloom.engine.decoding.decoder import Floats
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.sampling import choose as plain_choose
from charloom.network.config import ModelConfig
from charloom.network.model import CharLSTM
from charloom.training.checkpoint import read_checkpoint
from charloom.training.config import TrainingConfig
from charloom.training.data.corpus import Corpus
from charloom.training.data.stream import Stream
from charloom.training.loop import Trainer
from charloom.training.precision import can_train
from charloom.training.records import Evaluation, Outcome, Progress

# Sums depend on the number of threads, so runs that are compared bit for bit need one number; and threads that spin
# on shared cores make tiny runs ten times slower.
torch.set_num_threads(1)

TINY = {
    "layers": 2,
    "hidden_size": 16,
    "embedding_size": 8,
    "dropout": 0.3,
    "batch_size": 8,
    "sequence_length": 16,
    "epochs": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 5,
    "checkpoint_every": 9,
}

TINY_FLAGS = [
    *("--layers", "2", "--hidden-size", "16", "--embedding-size", "8", "--batch-size", "8", "--sequence-length", "16"),
    *("--epochs", "1", "--warmup-steps", "3", "--precision", "fp32", "--device", "cpu", "--threads", "1"),
    *("--validation-share", "0.04", "--evaluations-per-epoch", "2", "--average-decay", "0.9"),
]
"""Of `charloom train`: a run of one epoch."""

HAS_BF16 = can_train(torch.device("cpu"), "bf16")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 LSTM, which needs AVX-512")
PRECISIONS = ["fp32", pytest.param("bf16", marks=needs_bf16)]
"""Both, where the processor has both."""

HIGHEST_UNIFORM = 1 - 2**-23
ROUNDING = 1e-5
"""How close to a boundary, as a share of all probability, another order of float32 operations may fall elsewhere."""


def tiny_config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(TINY | changes)


def random_model(vocabulary_size: int) -> CharLSTM:
    """Random weights, larger than at the start of training, so that predictions depend on the text."""
    torch.manual_seed(3)
    made = CharLSTM(vocabulary_size, ModelConfig(layers=2, hidden_size=16, embedding_size=8, dropout=0.5))
    for parameter in made.parameters():
        parameter.data.mul_(2)
    return made


def corpus_of(text: str, unit: Unit = Unit.CHARACTER, share: float = 0.1) -> Corpus:
    vocabulary = vocabulary_of(text, unit)
    parts = Stream(vocabulary.encode(text)).split(share)
    return Corpus(vocabulary, *parts, hashlib.sha256(text.encode()).hexdigest(), len(text), "text.txt")


class Recorder:
    """A reporter that keeps what it is told, and calls `on_step` after each step."""

    def __init__(self, on_step: Callable[[int], None] = lambda _: None) -> None:
        self.steps: list[Progress] = []
        self.evaluations: list[Evaluation] = []
        self._on_step = on_step

    def step(self, progress: Progress) -> None:
        self.steps.append(progress)
        self._on_step(progress.step)

    def evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


def train(
    config: TrainingConfig, corpus: Corpus, run: Path, *, resume: bool = False, stop_after: int | None = None
) -> tuple[Outcome, Recorder]:
    """A run, or a part of it: stopped after step `stop_after`, as a signal handler would stop it."""
    trainer = Trainer(config, corpus, run, resume=resume)

    def on_step(step: int) -> None:
        if step == stop_after:
            trainer.stop()

    recorder = Recorder(on_step)
    return trainer.train(recorder), recorder


def checkpoint_tensors(file: Path) -> dict[str, Tensor]:
    return read_checkpoint(file).tensors


def assert_same_checkpoint(left: Path, right: Path) -> None:
    """All tensors bit for bit, and all facts but the time that it took."""
    one, other = read_checkpoint(left), read_checkpoint(right)
    assert one.tensors.keys() == other.tensors.keys()
    different = [name for name, tensor in one.tensors.items() if not torch.equal(tensor, other.tensors[name])]
    assert different == []
    assert one.facts | {"seconds": 0} == other.facts | {"seconds": 0}


def assert_close_runs(left: Path, right: Path, tolerance: float) -> None:
    one, other = read_checkpoint(left), read_checkpoint(right)
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], atol=tolerance, rtol=1e-3, msg=name)
    assert one.facts["step"] == other.facts["step"]


def plausible_tokens(logits: Floats, uniform: float, sampling: Sampling, bias: Floats) -> set[int]:
    """The tokens that the engine's `choose` takes within `ROUNDING` of the boundaries of this choice.

    A boundary is a cumulative probability (where `uniform` falls), or the place where top_p or min_p cuts off.
    """

    def around(value: float, low: float, high: float) -> list[float]:
        return [value, max(low, value - ROUNDING), min(high, value + ROUNDING)]

    top_ps = around(sampling.top_p, 1e-7, 1.0 - 1e-7) if sampling.top_p < 1 else [1.0]
    min_ps = around(sampling.min_p, 1e-7, 1.0) if sampling.min_p > 0 else [0.0]
    return {
        plain_choose(logits, moved, Sampling(sampling.temperature, sampling.top_k, top_p, min_p), bias)[0]
        for moved, top_p, min_p in itertools.product(around(uniform, 0.0, HIGHEST_UNIFORM), top_ps, min_ps)
    }


def torch_parameters(samplings: Sequence[Sampling]) -> dict[str, Tensor]:
    """What the choice of a token takes by name, [B] each: temperature and filters."""
    used = [*controls(Effect.SCALES), *controls(Effect.FILTERS)]
    columns = {one.name: np.array([getattr(row, one.option) for row in samplings], one.dtype) for one in used}
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def random_uniforms(seed: int, shape: int | tuple[int, ...]) -> Floats:
    """Numbers as the engine makes them: 23 bits, in [0, 1 - 2^-23]."""
    return (np.random.default_rng(seed).integers(2**23, size=shape) / 2**23).astype(np.float32)
