"""A learning rate for a model and a text, by trying all of them once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from charloom.training.config import TrainingConfig
from charloom.training.data.batches import Batches
from charloom.training.data.corpus import Corpus
from charloom.training.learner import Learner, TrainingDiverged

LOWEST, HIGHEST = 1e-5, 1.0
WARMING, WARMING_RATE = 100, 2e-3
"""Steps before the test, and their rate: a model that knows only letter frequencies stands any rate."""
SMOOTHING = 0.9
"""Decay of the moving average of the losses."""
OF_NO_USE = (
    "epochs",
    "learning_rate",
    "schedule",
    "warmup_steps",
    "final_learning_rate_ratio",
    "plateau_patience",
    "plateau_factor",
    "average_decay",
    "early_stopping",
    "evaluations_per_epoch",
    "checkpoint_every",
)
"""The settings of a run that the test does not read."""
TOO_HIGH = 1.5
"""The trial ends where the loss is this many times the lowest one."""


class Trial(NamedTuple):
    """One step of the test: its rate and its loss."""

    rate: float
    loss: float
    """Smoothed, nats per token"""


@dataclass(frozen=True)
class FoundRate:
    """The trials of the test, and the learning rate that they suggest."""

    trials: list[Trial]
    lowest: float
    """The rate at which the loss was lowest."""

    @property
    def suggestion(self) -> float:
        """A tenth of the rate with the lowest loss: one that learns quickly and is far from breaking."""
        return self.lowest / 10


def find_learning_rate(config: TrainingConfig, corpus: Corpus, device: str = "cpu", steps: int = 100) -> FoundRate:
    """After some steps of learning, take `steps` with a rate that grows from 1e-5 to 1, until the loss grows again.

    Raises:
        CorpusError: the text is too short for one batch.
        TrainingDiverged: before there was anything to compare.
    """
    batches = Batches(corpus.train, config.batch_size, config.sequence_length, config.seed)
    learner = Learner(corpus.vocabulary.size, config, torch.device(device))
    trials: list[Trial] = []
    average = 0.0
    rates = [WARMING_RATE] * WARMING + np.geomspace(LOWEST, HIGHEST, steps).tolist()
    for step, rate in enumerate(rates):
        if batches.starts_epoch(step):
            learner.reset_states()
        try:
            loss = learner.step(step, batches.batch(step), rate).loss
        except TrainingDiverged:
            if not trials:
                raise
            break
        if step < WARMING:
            continue
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        trials.append(Trial(rate, average / (1 - SMOOTHING ** (step - WARMING + 1))))
        if trials[-1].loss > TOO_HIGH * min(trial.loss for trial in trials):
            break
    return FoundRate(trials, min(trials, key=lambda trial: trial.loss).rate)
