"""What an adaptive session learns from its text, in its plainest form: the definition that decoders are tested against.

A session remembers which token came last after each context: after the last 2 tokens, the last 3, and so on, of each
in a hashed table. At a step, each of these predicts a token, and adds a weight to its logit; the weight is that of the
length of the context, of how well the prediction is known, and of how improbable the network finds the token. A bias
is added to all logits. Then the token is known, and weights and bias go a step against the gradient of its loss.

This is a log-linear model whose features are the predictions, trained online: the mixing of PAQ (Mahoney, 2005,
"Adaptive weighing of context models for lossless data compression") over whole symbols. The state is a function of the
tokens alone, and all zeros before the first.

Axis letters: B rows, V vocabulary, N contexts, D tokens of the longest one, S numbers of a state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from charloom.controls.adaptation import (
    BIAS_RATE,
    BUCKETS,
    COEFFICIENTS,
    LEVELS,
    ORDERS,
    TRUSTS,
    WEIGHT_RATE,
    layout,
    state_size,
)
from charloom.engine.decoding.decoder import Floats, Ints


class LearntState(NamedTuple):
    """The parts of some states; `charloom.controls.adaptation.Layout` tells what they are."""

    seen: Floats
    """[B, N * BUCKETS]"""
    weights: Floats
    """[B, N * TRUSTS * LEVELS]"""
    bias: Floats
    """[B, V], or [B, 0]"""
    history: Floats
    """[B, D]"""


class Prediction(NamedTuple):
    """What the contexts of some rows predict."""

    place: Ints
    """[B, N] of each context in `LearntState.seen`"""
    known: Floats
    """[B, N] 1 where something has come after the context, else 0"""
    token: Ints
    """[B, N] what came; 0 where nothing has"""
    weight: Ints
    """[B, N] the place of its weight in `LearntState.weights`"""
    logits: Floats
    """[B, V] the logits with all that is added"""


def fresh(rows: int, vocabulary: int) -> Floats:
    """States before any text, [B, S]."""
    return np.zeros((rows, state_size(vocabulary)), np.float32)


def predict(logits: Floats, state: Floats) -> Prediction:
    """What comes next, by the network and by what a session has learnt.

    Args:
        logits: [B, V] of the network
        state: [B, S]
    """
    parts = _parts(state, logits.shape[1])
    contexts = np.arange(len(ORDERS))
    place = parts.history.astype(np.int64) @ np.array(COEFFICIENTS).T % BUCKETS + contexts * BUCKETS
    seen = np.take_along_axis(parts.seen, place, 1).astype(np.int64)
    known = (seen > 0).astype(np.float32)
    token, trust = np.divmod(np.maximum(seen - 1, 0), TRUSTS)
    logprobs = logits - _log_sum(logits)
    level = np.minimum(np.floor(-np.take_along_axis(logprobs, token, 1)), LEVELS - 1).astype(np.int64)
    weight = (contexts * TRUSTS + trust) * LEVELS + level
    added = np.take_along_axis(parts.weights, weight, 1) * known
    result = logits.copy()
    result[:, : parts.bias.shape[1]] += parts.bias
    for context in contexts:
        result[np.arange(len(result)), token[:, context]] += added[:, context]
    return Prediction(place, known, token, weight, result)


def learn(state: Floats, prediction: Prediction, chosen: Ints) -> Floats:
    """The states [B, S] after the tokens that came, [B], fed or chosen."""
    seen, weights, bias, history = (part.copy() for part in _parts(state, prediction.logits.shape[1]))
    rows = np.arange(len(chosen))[:, None]
    probability = np.exp(prediction.logits - _log_sum(prediction.logits))
    came = np.arange(probability.shape[1]) == chosen[:, None]
    right = (prediction.token == chosen[:, None]) * prediction.known
    wrong = np.take_along_axis(probability, prediction.token, 1) * prediction.known
    bias += np.float32(BIAS_RATE) * (came - probability)[:, : bias.shape[1]]
    weights[rows, prediction.weight] += np.float32(WEIGHT_RATE) * (right - wrong)
    seen[rows, prediction.place] = 1 + TRUSTS * chosen[:, None] + right
    history = np.concatenate([chosen[:, None] + 1, history[:, :-1]], axis=1)
    return np.concatenate([seen, weights, bias, history], axis=1).astype(np.float32)


def _parts(state: Floats, vocabulary: int) -> LearntState:
    return LearntState(*np.split(state, np.cumsum(layout(vocabulary))[:-1], axis=1))


def _log_sum(logits: Floats) -> Floats:
    """[B, 1], natural logarithm of the sum of what these are logarithms of."""
    largest = logits.max(axis=1, keepdims=True)
    result: Floats = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    return result
