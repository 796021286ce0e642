"""A classifier at work: on one text, and on many with known labels.

Axis letters: B rows, T time, N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charloom.bundle import Tokens
from charloom.lab.tasks.batches import buckets
from charloom.lab.tasks.calibration import calibration_error
from charloom.lab.tasks.classifier import Classifier
from charloom.lab.tasks.folders import Text
from charloom.lab.tasks.scores import Scores, confusion_of
from charloom.lab.tasks.symbols import UNKNOWN, Symbols, padded
from charloom.training.data.texts import CorpusError


class Example(NamedTuple):
    """A text as a model reads it."""

    tokens: Tokens
    """[T], cut at the longest length"""
    label: int


class Judged(NamedTuple):
    """What a model makes of texts whose labels are known."""

    logits: Tensor
    """[N, C], before any temperature"""
    labels: Tensor
    """[N], the right ones"""


class Prediction(NamedTuple):
    """The label that a model gives a text, and how much of the text it read."""

    label: str
    probabilities: dict[str, float]
    tokens: int
    """tokens of the text"""
    left_out: int
    """tokens that were not read, the text being longer than the model takes"""
    unknown: int
    """tokens read that the model has no symbol for"""


@dataclass(frozen=True)
class TextClassifier:
    """A model with what it takes to use it on texts."""

    model: Classifier
    symbols: Symbols
    labels: tuple[str, ...]
    max_length: int
    temperature: float = 1.0
    """Divides the logits, so that the probabilities can be believed; fitted when the weights were kept."""

    def tokens(self, text: str) -> Tokens:
        """All tokens of a text, [T]; white space around it does not count."""
        return self.symbols.encode(text.strip())

    def examples(self, texts: Iterable[Text]) -> list[Example]:
        """Texts as the model reads them."""
        return [Example(self.tokens(text.content)[: self.max_length], text.label) for text in texts]

    def too_long(self, texts: Iterable[Text]) -> int:
        """How many texts have more tokens than the model reads."""
        return sum(len(self.tokens(text.content)) > self.max_length for text in texts)

    @torch.no_grad()
    def predict(self, text: str) -> Prediction:
        """The label of a text, and how probable each is.

        Raises:
            CorpusError: there is no text.
        """
        tokens = self.tokens(text)
        if not len(tokens):
            raise CorpusError("the text is empty; give one to classify")
        read = tokens[: self.max_length]
        chances = (self.model.eval()(padded([read]))[0].double() / self.temperature).softmax(0).tolist()
        return Prediction(
            label=self.labels[chances.index(max(chances))],
            probabilities=dict(zip(self.labels, chances, strict=True)),
            tokens=len(tokens),
            left_out=len(tokens) - len(read),
            unknown=int((read == UNKNOWN).sum()),
        )

    @torch.no_grad()
    def judge(self, examples: Sequence[Example], batch_size: int = 64) -> Judged:
        """The model's logits for these examples, by length."""
        self.model.eval()
        logits, labels = [], []
        for batch in buckets([len(example.tokens) for example in examples], batch_size):
            rows = [examples[at] for at in batch]
            labels += [row.label for row in rows]
            logits.append(self.model(padded([row.tokens for row in rows])))
        return Judged(torch.cat(logits), torch.tensor(labels))

    def scores(self, examples: Sequence[Example]) -> Scores:
        """How good the model is on these examples."""
        return scores_of(self.judge(examples), self.temperature)


def scores_of(judged: Judged, temperature: float) -> Scores:
    """How good logits are, divided by a temperature."""
    logits, labels = judged.logits.double() / temperature, judged.labels
    return Scores(
        confusion=confusion_of(labels.tolist(), logits.argmax(1).tolist(), logits.shape[1]),
        loss=float(cross_entropy(logits, labels)),
        calibration_error=calibration_error(logits.softmax(1), labels),
    )
