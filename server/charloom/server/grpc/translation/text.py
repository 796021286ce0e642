"""text.proto: symbols, their log-probabilities, and characters that a model lacks."""

from __future__ import annotations

import functools
import heapq

from charloom.bundle import Vocabulary
from charloom.engine.errors import InvalidRequest
from charloom.engine.loom.logprobs import Logprobs
from charloom.v1 import text_pb2

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


@functools.lru_cache(maxsize=256)
def largest_logprob(vocabulary: Vocabulary, top: int, *, constrained: bool) -> int:
    """The most bytes that the log-probability of one token takes in a message.

    Args:
        vocabulary: of the token
        top: how many alternatives are told with it
        constrained: whether it says what a constraint allowed, too
    """
    longest = heapq.nlargest(max(top, 1), map(vocabulary.symbol, range(vocabulary.size)), key=len)
    alternatives = [text_pb2.Alternative(symbol=symbol, logprob=-1) for symbol in longest]
    largest = text_pb2.TokenLogprob(chosen=alternatives[0], top=alternatives[:top])
    if constrained:
        largest.allowed_logprob = -1
    return _in_a_list(largest.ByteSize())


@functools.lru_cache(maxsize=256)
def largest_text(vocabulary: Vocabulary) -> int:
    """The most bytes that one token adds to a text; a byte that is no UTF-8 becomes U+FFFD, of three bytes."""
    return max(3, *(len(vocabulary.symbol(token)) for token in range(vocabulary.size)))


def _in_a_list(size: int) -> int:
    """Bytes of a message of this size as an item of a list: its number, its length in groups of 7 bits, itself."""
    return 1 + -(-size.bit_length() // 7) + size
