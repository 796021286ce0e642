"""Training an `AttentionModel` on a task, and measuring it on examples that were held out.

Axis letters: B rows, S source steps, T target steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import cross_entropy

from charloom.bundle import CharacterVocabulary
from charloom.lab.tasks.attention import AttentionModel
from charloom.lab.tasks.pairs import Pair, PairTask
from charloom.lab.tasks.scores import edits
from charloom.lab.tasks.symbols import END, PADDING, Padded, Symbols, padded


class SequenceSettings(BaseModel):
    """What decides the outcome of a training, besides the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int = Field(64, ge=1, le=4096, description="units of the encoder's directions and of the decoder, H")
    embedding_size: int = Field(32, ge=1, le=4096, description="size of a symbol's embedding, E")
    steps: int = Field(400, ge=1, description="batches to train on, each of new examples")
    batch_size: int = Field(32, ge=1, description="examples of a batch, B")
    learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of Adam; a tenth of the steps warms up")
    gradient_clip: float = Field(1.0, gt=0, description="largest global norm of the gradient")
    examples: int = Field(500, ge=1, description="held-out examples to measure with")
    seed: int = Field(1, ge=0, lt=2**63, description="of initialisation and of the examples")


@dataclass(frozen=True)
class Answer:
    """What a model wrote for one source."""

    source: str
    target: str
    written: str
    weights: list[list[float]]
    """[T, S]: for each symbol written, `END` included, what was attended to; each row sums to 1"""


class Transducer:
    """A model with the symbols of its task: strings in, strings out."""

    def __init__(self, task: PairTask, settings: SequenceSettings) -> None:
        self.source = Symbols(CharacterVocabulary.of_text(task.source_symbols))
        self.target = Symbols(CharacterVocabulary.of_text(task.target_symbols))
        self.longest = task.longest + 1
        torch.manual_seed(settings.seed)
        self.model = AttentionModel(self.source.size, self.target.size, settings.embedding_size, settings.hidden_size)

    def batch(self, pairs: Sequence[Pair]) -> tuple[Padded, Padded]:
        """Sources [B, S], and targets [B, T] that end with `END`."""
        return (
            padded([self.source.encode(pair.source) for pair in pairs]),
            padded([np.append(self.target.encode(pair.target), END) for pair in pairs]),
        )

    def answers(self, pairs: Sequence[Pair]) -> list[Answer]:
        """What the model writes for each source, decoded greedily."""
        source, _ = self.batch(pairs)
        written = self.model.eval().write(source, self.longest)
        found = []
        for row, (pair, length) in enumerate(zip(pairs, source.lengths.tolist(), strict=True)):
            steps = int((written.tokens[row] != PADDING).sum())
            tokens, weights = written.tokens[row, :steps].tolist(), written.weights[row, :steps, :length].tolist()
            found.append(Answer(pair.source, pair.target, self.target.decode(tokens), weights))
        return found


@dataclass(frozen=True)
class Trained:
    """A trained model, its losses and its answers."""

    transducer: Transducer
    losses: list[float]
    """of each batch, nats per target symbol"""
    answers: list[Answer]
    """for the held-out examples"""

    @property
    def exact(self) -> float:
        """Share of the held-out examples that were written without a mistake."""
        return sum(answer.written == answer.target for answer in self.answers) / len(self.answers)

    @property
    def character_errors(self) -> float:
        """Characters to correct in what was written, as a share of the characters that are right."""
        wrong = sum(edits(answer.written, answer.target) for answer in self.answers)
        return wrong / sum(len(answer.target) for answer in self.answers)


def train(
    task: PairTask,
    settings: SequenceSettings,
    say: Callable[[str], None] = lambda line: None,
    held_out: Sequence[Pair] = (),
) -> Trained:
    """Train a model on new examples in each batch; tells how far it is ten times.

    Args:
        task: where the examples come from
        settings: see there
        say: takes a line
        held_out: examples to measure with, if not `settings.examples` that the task draws
    """
    transducer = Transducer(task, settings)
    model, random = transducer.model, Random(settings.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    losses: list[float] = []
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _share(step, settings.steps)
        pairs = [task.pair(random, held_out=False) for _ in range(settings.batch_size)]
        source, target = transducer.batch(pairs)
        logits, _ = model.train()(source, target.tokens)
        loss = cross_entropy(logits.flatten(0, 1), target.tokens.flatten(), ignore_index=PADDING)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % max(1, settings.steps // 10) == 0:
            say(f"step {step + 1} of {settings.steps}  {losses[-1]:.4f} nats per symbol")
    tests = Random(settings.seed + 1)
    held_out = held_out or [task.pair(tests, held_out=True) for _ in range(settings.examples)]
    return Trained(transducer, losses, transducer.answers(held_out))


def _share(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: linear warm-up over a tenth, then a cosine down to zero."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
