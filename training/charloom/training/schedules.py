"""The learning rate of each step: warm-up, then a cosine or a plateau."""

from __future__ import annotations

import math
from dataclasses import dataclass

from charloom.training.config import TrainingConfig


@dataclass
class Plateau:
    """Reduce-on-plateau: what it remembers between evaluations, saved with each checkpoint."""

    factor: float = 1.0
    """What the learning rate is multiplied with at present."""
    best: float = math.inf
    stale: int = 0
    """Evaluations since the last progress."""
    warmup: int | None = None
    """Steps of warm-up of a run that was made longer: those that it began with; None = as its length says."""

    def observe(self, loss: float, config: TrainingConfig) -> None:
        """Take note of a validation loss; reduce the factor when it did not fall for too long."""
        if loss < self.best:
            self.best, self.stale = loss, 0
            return
        self.stale += 1
        if self.stale > config.plateau_patience:
            self.factor = max(self.factor * config.plateau_factor, config.final_learning_rate_ratio)
            self.stale = 0


def warmup_steps(total_steps: int, config: TrainingConfig) -> int:
    """Steps of warm-up in a run of so many steps."""
    return min(config.warmup_steps, total_steps // 10)


def learning_rate(step: int, total_steps: int, config: TrainingConfig, plateau: Plateau) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay or the plateau's factor."""
    warmup = warmup_steps(total_steps, config)
    if config.schedule == "plateau" and plateau.warmup is not None:
        warmup = plateau.warmup
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "plateau":
        return config.learning_rate * plateau.factor
    progress = (step - warmup) / max(1, total_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    floor = config.final_learning_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * cosine)
