"""text.proto: symbols, their log-probabilities, and characters that a model lacks."""

from __future__ import annotations

from charloom.bundle import Vocabulary
from charloom.engine.decoding.decoder import Ints
from charloom.engine.errors import InvalidRequest
from charloom.engine.loom.logprobs import Logprobs
from charloom.v1 import text_pb2

_FLOAT = 5
"""Bytes of a field that is a float."""
_UNKNOWN_CHARACTERS = frozenset(text_pb2.UnknownCharacters.values())


def to_skip_unknown(value: text_pb2.UnknownCharacters.ValueType) -> bool:
    """Whether characters that the model lacks are to be left out.

    Raises:
        InvalidRequest: the enum has no such value.
    """
    if value not in _UNKNOWN_CHARACTERS:
        raise InvalidRequest("unknown_characters", f"{value} is not a value of the enum")
    return value == text_pb2.UNKNOWN_CHARACTERS_SKIP


def from_logprobs(logprobs: Logprobs, vocabulary: Vocabulary) -> list[text_pb2.TokenLogprob]:
    """The messages for log-probabilities of tokens."""
    return [
        text_pb2.TokenLogprob(
            chosen=from_alternative(vocabulary, found.token, found.logprob),
            top=[from_alternative(vocabulary, *other) for other in found.top],
            allowed_logprob=found.allowed,
        )
        for found in logprobs
    ]


def from_alternative(vocabulary: Vocabulary, token: int, logprob: float) -> text_pb2.Alternative:
    """The message for a token and its log-probability."""
    return text_pb2.Alternative(symbol=vocabulary.symbol(token), logprob=logprob)


def largest_logprob(vocabulary: Vocabulary, top: int, *, constrained: bool) -> int:
    """The most bytes that the log-probability of one token takes in a message.

    Args:
        vocabulary: of the token
        top: number of alternatives with it
        constrained: whether it has the probability that a constraint allowed, too
    """
    alternatives = _as_field(_as_field(vocabulary.symbol_sizes[: max(top, 1)]) + _FLOAT)
    return int(_as_field(alternatives[0] + alternatives[:top].sum() + _FLOAT * constrained))


def _as_field(size: Ints) -> Ints:
    """Bytes that fields of these sizes take in a message: tag, length as a varint, and content."""
    return 2 + size + (size >= 2**7) + (size >= 2**14) + (size >= 2**21)
