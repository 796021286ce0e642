"""What a request may ask of sampling, and the choice of one token in its plainest form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charloom.bundle import UnknownSymbolsError, Vocabulary
from charloom.controls import LOWEST, Control, Effect, controls
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.errors import InvalidRequest, shown, shown_number
from charloom.engine.limits import MOST_BIASES, MOST_CHARACTERS

LARGEST_BIAS = 100.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: penalties, then bias, then temperature, then top_k, top_p and min_p.

    The penalties look at the text of the call: its prompt and what it has generated. `charloom.controls` says what each
    number does, its range, and which value is off.

    Raises:
        InvalidRequest: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[str, float], ...] = ()
    """Characters or words, and what is added to the logit of each."""
    allowed_characters: str | None = None
    """Only tokens of these characters; None allows all."""
    forbidden_characters: str = ""
    """No tokens that have any of these characters."""

    def __post_init__(self) -> None:
        for control in controls():
            value = getattr(self, control.option)
            _check(control.option, value, control.allows(value), control.wanted)
        if len(self.logit_bias) > MOST_BIASES:
            raise InvalidRequest(
                "sampling.logit_bias",
                f"it has more than {MOST_BIASES} entries; give those of the same amount as one, which names them all",
            )
        for characters, amount in self.logit_bias:
            if not (math.isfinite(amount) and abs(amount) <= LARGEST_BIAS):
                _check(f"logit_bias[{shown(characters)}]", amount, False, f"from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}")
        _check_length("logit_bias", sum(len(characters) for characters, _ in self.logit_bias))
        _check_length("allowed_characters", len(self.allowed_characters or ""))
        _check_length("forbidden_characters", len(self.forbidden_characters))

    @functools.cached_property
    def asked(self) -> tuple[tuple[Control, float], ...]:
        """The controls that are not at their neutral value, each with its value."""
        values = [(control, getattr(self, control.option)) for control in controls()]
        return tuple((control, value) for control, value in values if value != control.neutral)

    @property
    def filters(self) -> bool:
        """Whether tokens are left out for being improbable."""
        return any(control.effect is Effect.FILTERS for control, _ in self.asked)

    @property
    def penalises(self) -> bool:
        """Whether what has occurred matters."""
        return any(control.effect is Effect.PENALISES for control, _ in self.asked)


def _check(field: str, value: float, good: bool, wanted: str) -> None:
    if not good:
        raise InvalidRequest(f"sampling.{field}", f"{shown_number(value)} is not allowed; give a number {wanted}")


def _check_length(field: str, characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise InvalidRequest(
            f"sampling.{field}", f"it has {characters} characters, more than {MOST_CHARACTERS}; give each once"
        )


def bias_of(sampling: Sampling, vocabulary: Vocabulary, *, skip_unknown: bool) -> Floats | None:
    """What is added to the logits, [V], by logit_bias, allowed_characters and forbidden_characters; None if nothing.

    A token that stands for what has no symbol is never chosen.

    Raises:
        InvalidRequest: the vocabulary lacks a character or word, or no token is left.
    """
    asked = sampling.logit_bias or sampling.allowed_characters is not None or sampling.forbidden_characters
    if not asked and vocabulary.unknown is None:
        return None

    def tokens(field: str, of: Callable[..., Ints], text: str) -> Ints:
        try:
            return of(text, skip_unknown=skip_unknown)
        except UnknownSymbolsError as problem:
            raise InvalidRequest(f"sampling.{field}", f"{problem}; leave them out, or ask to skip them") from problem

    bias = np.zeros(vocabulary.size, np.float32)
    for characters, amount in sampling.logit_bias:
        if not characters:
            raise InvalidRequest(
                "sampling.logit_bias", "an entry names no characters; give at least one, or leave it out"
            )
        bias[tokens("logit_bias", vocabulary.spell, characters)] += amount  # once, however often one is named
    if sampling.allowed_characters is not None:
        allowed = np.zeros(vocabulary.size, bool)
        allowed[tokens("allowed_characters", vocabulary.tokens_of, sampling.allowed_characters)] = True
        bias[~allowed] = -np.inf
    if sampling.forbidden_characters:  # what the model lacks it will not generate anyway
        bias[vocabulary.tokens_with(sampling.forbidden_characters)] = -np.inf
    if vocabulary.unknown is not None:
        bias[vocabulary.unknown] = -np.inf
    if np.isneginf(bias).all():
        field = "forbidden_characters" if sampling.forbidden_characters else "allowed_characters"
        raise InvalidRequest(
            f"sampling.{field}", "no character of the model is left to choose from; allow at least one"
        )
    return bias


def penalised(logits: Floats, counts: Floats, sampling: Sampling) -> Floats:
    """The logits after repetition, frequency and presence penalty.

    Args:
        logits: [V]
        counts: [V], how often each token has occurred
        sampling: the parameters
    """
    result = logits.copy()
    for token in np.flatnonzero(counts):
        factor = np.float32(sampling.repetition_penalty)
        result[token] = result[token] / factor if result[token] > 0 else result[token] * factor
        result[token] -= counts[token] * np.float32(sampling.frequency_penalty) + np.float32(sampling.presence_penalty)
    return result


class Place(NamedTuple):
    """Where a text is in its constraint."""

    allowed: npt.NDArray[np.bool_]
    """[V] the tokens after which the text can still be ended within what is left of its tokens"""
    may_end: bool
    """Whether the text may end here."""


def constrained(scaled: Floats, place: Place, *, greedy: bool) -> tuple[Floats, float]:
    """What a constraint makes of the logits after temperature: minus infinity for tokens that are not allowed.

    Where the text may end, all that is not allowed together means the end, and stands in the place of the first token
    that is not allowed. If greedy, the end comes where it is as probable as the best token.

    Returns:
        The logits [V], the largest being 0, and the natural logarithm of the probability that they had together.
    """
    kept, others = scaled[place.allowed], scaled[~place.allowed]
    result = np.full_like(scaled, -np.inf)
    result[place.allowed] = kept
    if not place.may_end:
        return result - result.max(), _log_sum(kept) - _log_sum(scaled)
    if len(others):
        end = _log_sum(others)
        if greedy and len(kept) and end >= kept.max():
            result[:] = -np.inf
        result[place.allowed.argmin()] = end
    return result - result.max(), 0.0


def _log_sum(logits: Floats) -> float:
    """Natural logarithm of the sum of what these are logarithms of."""
    largest = logits.max()
    return float(largest) if np.isneginf(largest) else float(largest + np.log(np.exp(logits - largest).sum()))


def choose(
    logits: Floats, uniform: float, sampling: Sampling, bias: Floats, place: Place | None = None
) -> tuple[int, float]:
    """The token that `uniform` picks: bias, temperature, constraint, top_k, top_p, min_p, then inverse-CDF.

    Args:
        logits: [V]
        uniform: in [0, 1 - 2^-23]
        sampling: the parameters
        bias: [V], minus infinity forbids
        place: where the text is in its constraint, if it has one

    Returns:
        The token, and the natural logarithm of the probability that the constraint left. A token that is not allowed
        means that the text ends before it.
    """
    biased = logits + bias
    greedy = sampling.temperature < LOWEST
    scaled = (biased - biased.max()) / np.float32(1 if greedy else sampling.temperature)
    left = 0.0
    if place is not None:
        scaled, left = constrained(scaled, place, greedy=greedy)
    if greedy:
        return int(scaled.argmax()), left
    order = np.argsort(-scaled, kind="stable")
    probability = np.exp(scaled[order])
    probability /= probability.sum()
    keep = len(order)
    if sampling.top_k:
        keep = min(keep, sampling.top_k)
    probability[keep:] = 0
    if sampling.top_p < 1:
        before = np.cumsum(probability) - probability
        keep = min(keep, int((before < np.float32(sampling.top_p) * probability.sum()).sum()))
    if sampling.min_p > 0:
        keep = min(keep, int((probability >= np.float32(sampling.min_p) * probability[0]).sum()))
    weight = np.zeros_like(scaled)
    kept = order[: max(keep, 1)]
    weight[kept] = np.exp(scaled[kept])
    cumulative = np.cumsum(weight)
    return int((cumulative <= np.float32(uniform) * cumulative[-1]).sum()), left
