"""Training a classifier: epochs over bucketed texts, until validation no longer gets better."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from charloom.bundle import Tokens, vocabulary_of
from charloom.lab.tasks.batches import Batch, buckets, padding_share
from charloom.lab.tasks.calibration import fitted_temperature
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.classifier_runs import save_classifier, save_start
from charloom.lab.tasks.config import ClassificationConfig
from charloom.lab.tasks.folders import Parts
from charloom.lab.tasks.predict import Example, TextClassifier
from charloom.lab.tasks.symbols import UNKNOWN, Symbols, padded
from charloom.training.data.survey import require_room
from charloom.training.files import append_record
from charloom.training.learner import TrainingDiverged
from charloom.training.run_directory import LOG_FILE
from charloom.training.run_lock import lock_new_run


@dataclass(frozen=True)
class Epoch:
    """One epoch, as told to a reporter and written to `log.jsonl`."""

    epoch: int
    train_loss: float
    """Mean over the epoch, nats per text, dropout on."""
    validation_loss: float
    accuracy: float
    """On the validation texts, as all that follows."""
    macro_f1: float
    best: bool
    padding: float
    """Share of the epoch's batches that was padding."""
    seconds: float
    """Training time so far."""


class Reporter(Protocol):
    """Where the training tells what happens."""

    def step(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """A batch was trained on."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch ended."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    best: Epoch
    epochs: int
    early: bool
    """Whether it ended because validation got no better."""


class ClassifierTrainer:
    """One run: a model, its texts and its optimiser.

    Args:
        config: the settings
        parts: what to train on, to choose the best epoch by, and to keep for the test
        run: the run directory; it is made, and must not hold a run

    Raises:
        CheckpointError: the directory holds a run or other files already, is in use, or cannot be made.
        CorpusError: the vocabulary of the texts is too large.
    """

    def __init__(self, config: ClassificationConfig, parts: Parts, run: Path) -> None:
        self._lock = lock_new_run(run)
        self.config, self.run = config, run
        try:
            torch.manual_seed(config.seed)
            vocabulary = vocabulary_of("\n".join(text.content for text in parts.train), config.unit)
            require_room(vocabulary, "these texts", "train with --unit character or byte")
            symbols = Symbols(vocabulary)
            model = Classifier(symbols.size, len(parts.labels), config)
            self.classifier = TextClassifier(model, symbols, parts.labels, config.max_length)
            self.train_examples, self.validation, self.test = (
                self.classifier.examples(part) for part in (parts.train, parts.validation, parts.test)
            )
            self.lengths = [len(example.tokens) for example in self.train_examples]
            everything = [text for part in (parts.train, parts.validation, parts.test) for text in part]
            self.cut = self.classifier.too_long(everything)
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
                    {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
                ],
                lr=config.learning_rate,
            )
            save_start(run, config, self.classifier, self.test)
        except BaseException:
            self._lock.release()
            raise

    def train(self, reporter: Reporter) -> Outcome:
        """Train until validation gets no better for `patience` epochs, or for `epochs`; the best weights are kept.

        Better is a higher accuracy, or the same with a lower loss.

        Raises:
            TrainingDiverged: the loss is not finite.
            CheckpointError: the run directory cannot be written.
        """
        try:
            return self._train(reporter)
        finally:
            self._lock.release()

    def _train(self, reporter: Reporter) -> Outcome:
        started, best = time.monotonic(), None
        for number in range(1, self.config.epochs + 1):
            random = np.random.default_rng([self.config.seed, number])
            batches = buckets(self.lengths, self.config.batch_size, random)
            losses = []
            for done, loss in enumerate(self._train_epoch(batches, random), 1):
                losses.append(loss)
                reporter.step(number, done, len(batches), loss)
            scores = self.classifier.scores(self.validation)
            better = best is None or (scores.accuracy, -scores.loss) > (best.accuracy, -best.validation_loss)
            epoch = Epoch(
                epoch=number,
                train_loss=float(np.average(losses, weights=[len(batch) for batch in batches])),
                validation_loss=scores.loss,
                accuracy=scores.accuracy,
                macro_f1=scores.macro_f1,
                best=better,
                padding=padding_share(self.lengths, batches),
                seconds=time.monotonic() - started,
            )
            append_record(self.run / LOG_FILE, asdict(epoch))
            if better:
                best = epoch
                self._save(epoch)
            reporter.epoch(epoch)
            assert best is not None
            if number - best.epoch >= self.config.patience:
                break
        assert best is not None
        return Outcome(best, number, early=number < self.config.epochs)

    def unsorted_padding(self) -> float:
        """Share of padding that batches in a random order would have."""
        order = np.random.default_rng(self.config.seed).permutation(len(self.lengths))
        size = self.config.batch_size
        return padding_share(self.lengths, [order[start : start + size] for start in range(0, len(order), size)])

    def _train_epoch(self, batches: Sequence[Batch], random: np.random.Generator) -> Iterator[float]:
        """Train on each batch; yields its loss."""
        model = self.classifier.model
        model.train()
        for batch in batches:
            rows = [self.train_examples[at] for at in batch]
            logits = model(padded([self._with_unknowns(row, random) for row in rows]))
            loss = cross_entropy(logits, torch.tensor([row.label for row in rows]))
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss is {loss.item()}; what was saved in {self.run} until then is kept. Lower --learning-rate"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.gradient_clip)
            self.optimizer.step()
            yield loss.item()

    def _with_unknowns(self, example: Example, random: np.random.Generator) -> Tokens:
        if not self.classifier.symbols.lacks_some:
            return example.tokens
        hidden = random.random(len(example.tokens)) < self.config.unknown_share
        return np.where(hidden, UNKNOWN, example.tokens)

    def _save(self, epoch: Epoch) -> None:
        calibrated = replace(self.classifier, temperature=fitted_temperature(*self.classifier.judge(self.validation)))
        facts = {
            "config": self.config.model_dump(mode="json"),
            "best": asdict(epoch),
            "texts": {"train": len(self.train_examples), "validation": len(self.validation), "test": len(self.test)},
            "parameters": self.classifier.model.parameter_count(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        save_classifier(self.run, calibrated, facts)
