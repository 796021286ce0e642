"""What classifiers make of texts: plain frozen values that know neither gRPC nor protobuf."""

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
    """What a classifier makes of a text, or of as much of it as has come."""

    label: str
    """The most probable label; empty while nothing but white space has come."""

    probabilities: Mapping[str, float] = field(hash=False)
    """Of each label, in the order of the model; empty while nothing but white space has come."""

    tokens: int
    """Tokens of the text, without the white space around it."""

    left_out: int
    """How many of these were not read, because the text is longer than the model reads."""

    unknown: tuple[UnknownPart, ...]
    """The first characters or words that the model has no symbol for."""

    unknown_count: int
    """How many such there are in the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """How good a classifier was on the texts that were kept for the test."""

    accuracy: float
    """Share of the texts whose label is right."""

    nats_per_text: float
    """Mean cross-entropy."""

    calibration_error: float
    """How far confidence and accuracy are apart, from 0 to 1."""
