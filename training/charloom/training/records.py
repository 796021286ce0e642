"""What a run reports while it goes on, and the interfaces of those that it reports to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from charloom.training.gates import Activations


@dataclass(frozen=True)
class Progress:
    """One training step, as told to a reporter."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    """Training loss of this step, nats per token."""
    learning_rate: float
    gradient_norm: float
    """Global norm before clipping."""
    gradient_norms: dict[str, float]
    """The same by part: `embedding`, `layer 1` and so on, `head`."""
    clipped: bool
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, as told to a reporter and written to `log.jsonl`."""

    step: int
    epoch: float
    train_loss: float
    """Mean since the last evaluation, nats per token, dropout on."""
    validation_loss: float
    """Estimate of the `tail` protocol, nats per token."""
    best: bool
    learning_rate: float
    gradient_norms: dict[str, float]
    """Mean since the last evaluation, by part, before clipping."""
    clipped_share: float
    """Of the steps since the last evaluation."""
    tokens_per_second: float
    seconds: float
    """Training time so far, evaluations included."""
    memory_bytes: int
    """Resident memory of the process."""
    sample: str
    gates: dict[str, dict[str, Activations]] = field(default_factory=dict)
    """By layer (`layer 1`), then the cell's gates and `hidden`, which is |h|; earlier runs have none."""


DIVERGED = "diverged"
"""The cause of an advice: the loss or the gradient became NaN or infinite, which ends the run."""


@dataclass(frozen=True)
class Advice:
    """Something that seems to go wrong, and what to change."""

    step: int
    cause: str
    severity: float
    """How bad it is, to compare it with others of the same cause: twice as much is twice as bad."""
    text: str


class Reporter(Protocol):
    """Receives the reports of the training loop."""

    def step(self, progress: Progress) -> None:
        """A training step was made."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """An evaluation was made."""


class Watcher(Reporter, Protocol):
    """Shows or keeps what a run reports."""

    def advice(self, advice: Advice) -> None:
        """Something seems to go wrong."""

    def close(self) -> None:
        """The run has ended, or stopped."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    """False when it was asked to stop before its last step."""
    step: int
    best_loss: float
    stopped_early: bool = False
    """Whether it ended because the validation loss had stopped falling."""
