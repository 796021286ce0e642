"""Results of classifiers: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownPart:
    """Something in a text that the model has no symbol for, and reads as unknown."""

    text: str
    """The character or word."""

    position: int
    """Where it begins, in characters from the beginning of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledText:
    """A classifier's result for a text, or for the part of it that has arrived."""

    label: str
    """The most probable label; empty while the text has nothing but white space."""

    probabilities: Mapping[str, float] = field(hash=False)
    """Probability of each label, in the model's order; empty while the text has nothing but white space."""

    tokens: int
    """Tokens of the text, without the white space around it."""

    left_out: int
    """How many of these tokens were not read, because the text is longer than the model's `max_length`."""

    unknown: tuple[UnknownPart, ...]
    """The first characters or words that the model has no symbol for."""

    unknown_count: int
    """How many unknown characters or words the text has in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """How good a classifier was on the texts that were kept for the test."""

    accuracy: float
    """Share of the texts whose label is right."""

    nats_per_text: float
    """Mean cross-entropy."""

    calibration_error: float
    """How far confidence and accuracy are apart, from 0 to 1."""
