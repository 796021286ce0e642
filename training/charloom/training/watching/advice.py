"""What seems to go wrong in a run, and which flag to change.

Each sign is a function of the history alone. Those that look at steps see the newest `NEW` of them beside up to `OLD`
before them; those that look at evaluations see all of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean, median

from charloom.training.config import TrainingConfig
from charloom.training.records import Advice, Evaluation, Progress

NEW, OLD = 10, 200
VANISHED = 1e-6
EXPLODED = 100.0
"""Times the median."""
SPIKE, SPIKE_SHARE = 0.5, 0.2
"""Nats, and share of the median, by which the loss of the newest steps is above it."""
CLIPPED = 0.5
FLAT, FLAT_EVALUATIONS, FLAT_STEPS = 0.001, 5, 200
OVERFITTING_EVALUATIONS = 3
GROWTH, GROWTH_EVALUATIONS = 0.1, 5


def vanishing(old: Sequence[Progress], new: Sequence[Progress]) -> Iterator[Advice]:
    """The gradients of some parts are so small that these do not learn."""
    largest = {part: max(step.gradient_norms[part] for step in new) for part in new[-1].gradient_norms}
    vanished = [part for part, norm in largest.items() if norm < VANISHED]
    if vanished:
        worst = min(largest.values())
        yield Advice(
            new[-1].step,
            "vanishing gradient",
            -math.log10(max(worst, 1e-45)),
            f"the gradient of {', '.join(vanished)} is as small as {worst:.1e}, too little to learn from. "
            "Use fewer --layers or --cell layer-norm, or lower --learning-rate if the gates are saturated",
        )


def exploding(old: Sequence[Progress], new: Sequence[Progress]) -> Iterator[Advice]:
    """The gradient is suddenly far larger than it was."""
    usual = median(step.gradient_norm for step in old)
    worst = max(new, key=lambda step: step.gradient_norm)
    if usual > 0 and worst.gradient_norm > EXPLODED * usual:
        yield Advice(
            worst.step,
            "exploding gradient",
            math.log10(worst.gradient_norm / usual),
            f"the gradient's norm is {worst.gradient_norm:.3g}, {worst.gradient_norm / usual:,.0f} times what is usual "
            "in this run. Lower --learning-rate or --gradient-clip, or raise --warmup-steps",
        )


def spiking(old: Sequence[Progress], new: Sequence[Progress]) -> Iterator[Advice]:
    """The loss rose, as it does where steps are too large."""
    usual, now = median(step.loss for step in old), mean(step.loss for step in new)
    if old[0].step == 1:
        usual = min(usual, old[0].loss)  # a loss that is above that of chance from the start
    if now - usual > max(SPIKE, SPIKE_SHARE * usual):
        yield Advice(
            new[-1].step,
            "loss spike",
            now - usual,
            f"the training loss rose from {usual:.2f} to {now:.2f} nats: the learning rate "
            f"({new[-1].learning_rate:.1e}) may be too high. Lower --learning-rate, or raise --warmup-steps",
        )


def clipping(evaluations: Sequence[Evaluation]) -> Iterator[Advice]:
    """Most steps of an epoch were clipped, so that their length is no longer what was asked for."""
    last = evaluations[-1]
    share = mean(evaluation.clipped_share for evaluation in evaluations if evaluation.epoch > last.epoch - 1)
    if last.epoch >= 1 and share > CLIPPED:
        yield Advice(
            last.step,
            "clipped gradient",
            share,
            f"{share:.0%} of the steps of the last epoch were clipped. Raise --gradient-clip, or lower --learning-rate",
        )


def flat(evaluations: Sequence[Evaluation], config: TrainingConfig) -> Iterator[Advice]:
    """The training loss does not fall any more, although the learning rate is not at its end."""
    last = evaluations[-1]
    before = [evaluation for evaluation in evaluations[:-FLAT_EVALUATIONS] if evaluation.step <= last.step - FLAT_STEPS]
    if not before or last.learning_rate < 0.1 * config.learning_rate:
        return
    if last.train_loss > (1 - FLAT) * before[-1].train_loss:
        best = min(evaluations, key=lambda evaluation: evaluation.train_loss)
        yield Advice(
            last.step,
            "flat loss",
            max(last.step - best.step, last.step - before[-1].step),
            f"the training loss, {last.train_loss:.4f} nats, is not below that of step {before[-1].step}. "
            "Change --learning-rate (--find-learning-rate suggests one), or take more --layers or --hidden-size; "
            "if the loss is good enough, end with --early-stopping",
        )


def overfitting(evaluations: Sequence[Evaluation]) -> Iterator[Advice]:
    """The validation loss rises while the training loss falls."""
    recent = evaluations[-OVERFITTING_EVALUATIONS - 1 :]
    if len(recent) <= OVERFITTING_EVALUATIONS:
        return
    if all(b.validation_loss > a.validation_loss and b.train_loss < a.train_loss for a, b in pairwise(recent)):
        last, best = recent[-1], min(evaluations, key=lambda evaluation: evaluation.validation_loss)
        yield Advice(
            last.step,
            "overfitting",
            last.validation_loss - best.validation_loss,
            f"the validation loss rose {OVERFITTING_EVALUATIONS} times in a row, to {last.validation_loss:.3f} nats "
            f"(best: {best.validation_loss:.3f} at step {best.step}), while the training loss fell. "
            "Raise --dropout or --weight-decay, take a smaller --hidden-size or more text, or end with "
            "--early-stopping; the best weights are kept",
        )


def growing(evaluations: Sequence[Evaluation]) -> Iterator[Advice]:
    """The process takes more and more memory."""
    sizes = [evaluation.memory_bytes for evaluation in evaluations[1:]]  # the first evaluation needs its own
    before, recent = sizes[:-GROWTH_EVALUATIONS], sizes[-GROWTH_EVALUATIONS - 1 :]
    if not before or not all(b > a for a, b in pairwise(recent)):
        return
    growth = recent[-1] / max(before) - 1  # what was taken and given back once is no growth
    if growth > GROWTH:
        yield Advice(
            evaluations[-1].step,
            "growing memory",
            growth,
            f"the process grew by {growth:.0%} within {GROWTH_EVALUATIONS} evaluations, to {recent[-1] / 1e6:,.0f} MB. "
            "If it goes on, stop it with Ctrl-C and go on with --resume, in a process that starts small; "
            "a larger --accumulate needs less",
        )


class Adviser:
    """Watches the figures of a run; warns of each cause once, and again when it is twice as bad.

    Args:
        config: the settings of the run
        evaluations: those that it made before
        told: the warnings that the run had before
    """

    def __init__(
        self, config: TrainingConfig, evaluations: Sequence[Evaluation] = (), told: Sequence[Advice] = ()
    ) -> None:
        self._config = config
        self._evaluations = list(evaluations)
        self._steps: deque[Progress] = deque(maxlen=OLD + NEW)
        self._told = {advice.cause: advice.severity for advice in told}

    def step(self, progress: Progress) -> list[Advice]:
        """The warnings that the steps so far give reason for; checked at every tenth step."""
        if math.isfinite(progress.gradient_norm):  # else fp16 has left the step out
            self._steps.append(progress)
        if progress.step % NEW or len(self._steps) < 2 * NEW:
            return []
        steps = list(self._steps)
        old, new = steps[:-NEW], steps[-NEW:]
        return self._new([*vanishing(old, new), *exploding(old, new), *spiking(old, new)])

    def evaluation(self, evaluation: Evaluation) -> list[Advice]:
        """The warnings that the evaluations so far give reason for."""
        self._evaluations.append(evaluation)
        found = self._evaluations
        return self._new([*clipping(found), *flat(found, self._config), *overfitting(found), *growing(found)])

    def _new(self, found: list[Advice]) -> list[Advice]:
        new = []
        for advice in found:
            if advice.cause not in self._told or advice.severity >= 2 * self._told[advice.cause]:
                self._told[advice.cause] = advice.severity
                new.append(advice)
        return new
