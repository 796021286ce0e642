"""Estimates the memory that a call may need, from measured upper bounds in bytes (decision 0022)."""

from __future__ import annotations

from typing import NamedTuple

from charloom.engine.decoding.decoder import Shape

CALL = 32 * 1024
"""Bytes of any call: its connection's stream, its tasks, its messages."""
ROW = 24 * 1024
"""Bytes of a row on the loom, besides its states."""
STATES = 4
"""Copies of a row's state: its slot in the pool, its start, the anchor of its stop strings, and the latest snapshot."""
LEARNT = STATES + 7
"""Copies of a row's learnt state: one with each of the above, and those in a tick's inputs, graph and outputs."""
READ, FED = 32, 8
"""Bytes of a token that is read: once for its characters, as message and as text, and its number; and in each row."""
GENERATED = 32
"""Bytes of a generated token that is not read yet: its number, its text, the message with it."""
SUMMED = 250
"""Bytes of a token with its log-probability in the engine, if the answer has only sums of log-probabilities."""
SOURCE, LINE, CHARACTER = 8 * 1024, 1024, 64
"""Bytes in a message of a watch, besides rows: of an open source, of a line with its verdict, of a character."""
OPEN = 1000
"""Bytes of an open text of a beam search, besides its row."""
NEXT = 64
"""Bytes of a possible next token in a beam search, in all arrays with its probability."""
AUTOMATON = 3
"""Copies of an automaton: the compiler's, the loom's, and the loom's old table while it grows."""
STOP = 64
"""Bytes of a token of a stop string: its number, and its nodes in the automaton that all rows share."""
FLIGHT = 2048
"""Tokens of a stream that are in messages on their way, besides those that wait for its reader."""


class Told(NamedTuple):
    """Bytes of the log-probability of a token in an answer: in the engine's arrays and in all copies of the answer."""

    token: int
    """Of the token itself."""
    alternative: int
    """Of each alternative."""


BINARY, JSON = Told(160, 30), Told(400, 60)
"""In protobuf's encoding, and as JSON, whose longest form is that of chats."""


def of_generation(
    shape: Shape,
    prompt: int,
    tokens: int,
    top_logprobs: int | None,
    count: int = 1,
    *,
    unread: int | None = None,
    told: Told = BINARY,
    learnt: int = 0,
    behind: int = 0,
) -> int:
    """Bytes that a generating call may need.

    Args:
        shape: of the decoder
        prompt: number of tokens to read
        tokens: most tokens to generate
        top_logprobs: number of alternatives to return for each token; None: no log-probabilities at all
        count: number of continuations
        unread: most tokens that a stream leaves unread; None: the answer is sent as a whole
        told: the encoding of log-probabilities
        learnt: bytes of the learnt state of each continuation
        behind: as of `Snapshot.behind`; these tokens are read once
    """
    kept = tokens if unread is None else min(tokens, unread + FLIGHT)
    each = _row(shape, learnt) + FED * prompt + kept * _token(top_logprobs, told)
    return CALL + READ * prompt + (READ + FED) * behind + count * each


def of_reading(
    shape: Shape,
    tokens: int,
    top_logprobs: int | None,
    texts: int = 1,
    *,
    told: Told = BINARY,
    times: int = 1,
    learnt: int = 0,
    behind: int = 0,
) -> int:
    """Bytes that a reading call may need.

    Args:
        shape: of the decoder
        tokens: number of tokens to read, in all texts together
        top_logprobs: number of alternatives to return for each token; None: no log-probabilities at all
        texts: number of texts that are read at a time
        told: the encoding of log-probabilities
        times: how often the answer has them
        learnt: bytes of the learnt state of each text
        behind: as of `Snapshot.behind`, of all texts together
    """
    answer = 0 if top_logprobs is None else times * tokens * _token(top_logprobs, told)
    return CALL + texts * _row(shape, learnt) + (READ + FED) * (tokens + behind) + answer


def of_summing(shape: Shape, tokens: int, texts: int, *, learnt: int = 0) -> int:
    """Bytes that a call may need to read texts and return the sums of their log-probabilities; arguments as of
    `of_reading`.
    """
    return CALL + texts * _row(shape, learnt) + (READ + FED + SUMMED) * tokens


def of_watching(sources: int, lines: int, characters: int) -> int:
    """Bytes that a message of a watch may need while it is judged, besides `of_summing` for the sources that are read
    together.
    """
    return SOURCE * sources + LINE * lines + CHARACTER * characters


def of_suggesting(shape: Shape, prompt: int, beam: int, *, learnt: int = 0) -> int:
    """Bytes that a beam search may need, with `beam` open texts and the distribution of the next token after each."""
    return CALL + (READ + FED) * prompt + beam * (_row(shape, learnt) + OPEN + NEXT * shape.vocabulary)


def of_inspecting(shape: Shape, gates: int, text: int, chunk: int) -> int:
    """Bytes that an inspection of `text` tokens may need, `chunk` of them at a time, in a cell with `gates` gates."""
    # Per token: logits, an intermediate array and log-probabilities; gates and states, and copies of the shown layers.
    numbers = 3 * shape.vocabulary + 2 * (gates + shape.arrays) * shape.layers * shape.hidden
    return CALL + (READ + FED) * text + 4 * chunk * numbers


def _row(shape: Shape, learnt: int) -> int:
    return ROW + STATES * 4 * shape.arrays * shape.layers * shape.hidden + LEARNT * learnt + 8 * shape.vocabulary


def _token(top_logprobs: int | None, told: Told) -> int:
    return GENERATED + (0 if top_logprobs is None else told.token + top_logprobs * told.alternative)
